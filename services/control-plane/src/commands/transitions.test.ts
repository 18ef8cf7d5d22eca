/** The table of transitions against a model: what always holds, whatever happens in whatever order. */
import { expect, test } from "@jest/globals";
import { type CommandState, commandStates } from "@bowline/db";
import fc from "fast-check";
import {
  type CommandEvent,
  type CommandEventKind,
  type CommandFacts,
  isInFlight,
  isTerminal,
  isWaiting,
  step,
  transitions,
} from "./transitions.ts";

const fresh: CommandFacts = {
  state: "READY",
  attempt: 0,
  failures: 0,
  boundEpoch: null,
  everReceived: false,
  sessionsWithoutReceipt: 0,
  cancelReason: null,
  isRemoval: false,
  reduces: false,
  maxRetries: 3,
  newerWaits: false,
  timeLeft: true,
};

const fence = fc.record({ attempt: fc.nat(3), epoch: fc.nat(3), current: fc.boolean() });
const event: fc.Arbitrary<CommandEvent> = fc.oneof(
  fc.record({ kind: fc.constant("newer" as const), reduces: fc.boolean() }),
  fc.constant({ kind: "ahead-ended" as const }),
  fc.constant({ kind: "due" as const }),
  fc.constant({ kind: "cancel" as const }),
  fc.record({ kind: fc.constant("agent-gone" as const), retired: fc.boolean() }),
  fc.record({
    kind: fc.constant("time-over" as const),
    why: fc.constantFrom("DEADLINE" as const, "OFFLINE_LIFE" as const),
  }),
  fc.record({ kind: fc.constant("claimed" as const), epoch: fc.nat(3) }),
  fc.record({
    kind: fc.constantFrom("received" as const, "not-now" as const, "succeeded" as const, "ended" as const),
    fence,
  }),
  fc.record({ kind: fc.constantFrom("rejected" as const, "failed" as const), fence, worthRetry: fc.boolean() }),
  fc.constantFrom(
    { kind: "no-receipt" as const },
    { kind: "run-timeout" as const },
    { kind: "cancel-unanswered" as const },
    { kind: "session-ended" as const },
    { kind: "unbound-too-long" as const },
    { kind: "forked" as const, reissued: true },
    { kind: "forked" as const, reissued: false },
  ),
  fc.record({
    kind: fc.constantFrom(
      "back-with-it" as const,
      "back-whole-without-it" as const,
      "back-with-another-journal" as const,
    ),
    epoch: fc.nat(3),
  }),
);

const facts: fc.Arbitrary<CommandFacts> = fc.record({
  state: fc.constantFrom(...(Object.keys(commandStates) as CommandState[])),
  attempt: fc.nat(3),
  failures: fc.nat(5),
  boundEpoch: fc.option(fc.nat(3), { nil: null }),
  everReceived: fc.boolean(),
  sessionsWithoutReceipt: fc.nat(3),
  cancelReason: fc.constantFrom(null, "REQUESTED" as const, "NEWER" as const, "RUN_TIMEOUT" as const),
  isRemoval: fc.boolean(),
  reduces: fc.boolean(),
  maxRetries: fc.nat(4),
  newerWaits: fc.boolean(),
  timeLeft: fc.boolean(),
});

const runs = { numRuns: 5_000 };

test("no step leads outside the table", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      const verdict = step(command, happened);
      if (verdict.kind !== "moved") return;
      const allowed: Partial<Record<CommandEventKind, readonly CommandState[]>> = transitions[command.state];
      expect(allowed[happened.kind]).toContain(verdict.to);
      expect(verdict.facts.state).toBe(verdict.to);
    }),
    runs,
  );
});

test("a terminal state has no way out", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      if (isTerminal(command.state)) expect(step(command, happened).kind).not.toBe("moved");
    }),
    runs,
  );
});

test("a message whose epoch or attempt does not match changes nothing", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      if (!("fence" in happened)) return;
      const fits =
        happened.fence.current &&
        happened.fence.epoch === command.boundEpoch &&
        happened.fence.attempt === command.attempt;
      if (!fits) expect(step(command, happened).kind).not.toBe("moved");
    }),
    runs,
  );
});

test("only a claim adds to the attempt, and only a failure to the failures", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      const verdict = step(command, happened);
      if (verdict.kind !== "moved") return;
      expect(verdict.facts.attempt).toBe(command.attempt + (happened.kind === "claimed" ? 1 : 0));
      if (happened.kind === "session-ended") expect(verdict.facts.failures).toBe(command.failures);
    }),
    runs,
  );
});

test("a removal is never cancelled by a person, expired or lost before its agent is retired", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      const removal = { ...command, isRemoval: true, reduces: true };
      const verdict = step(removal, happened);
      if (verdict.kind !== "moved") return;
      const retired = happened.kind === "agent-gone" && happened.retired;
      if (!retired) expect(["EXPIRED", "LOST"]).not.toContain(verdict.to);
      if (happened.kind === "cancel") throw new Error("a person cancelled a removal");
    }),
    runs,
  );
});

test("nothing returns to the queue while a newer one waits there", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      if (!command.newerWaits || isWaiting(command.state)) return;
      const verdict = step(command, happened);
      if (verdict.kind === "moved") expect(["READY", "RETRY_WAIT"]).not.toContain(verdict.to);
    }),
    runs,
  );
});

test("whatever ends promotes what waits behind it", () => {
  fc.assert(
    fc.property(facts, event, (command, happened) => {
      const verdict = step(command, happened);
      if (verdict.kind !== "moved" || !isTerminal(verdict.to) || happened.kind === "newer") return;
      expect(verdict.effects).toContain("promote-next");
    }),
    runs,
  );
});

test("every state that waits for an agent can be left without that agent", () => {
  for (const state of ["ASSIGNED", "RUNNING", "CANCELLING"] as const) {
    const verdict = step({ ...fresh, state, attempt: 1 }, { kind: "agent-gone", retired: true });
    expect(verdict).toMatchObject({ kind: "moved", to: "LOST" });
  }
});

/** One deployment's commands, as the engine keeps them: enqueue, step, promote. */
class Model {
  commands: CommandFacts[] = [];
  epoch = 0;

  enqueue(reduces: boolean): void {
    for (const [index, command] of this.commands.entries()) {
      if (isTerminal(command.state)) continue;
      this.apply(index, { kind: "newer", reduces });
    }
    const open = this.commands.some((command) => !isTerminal(command.state));
    this.commands.push({ ...fresh, reduces, state: open ? "BLOCKED" : "READY" });
  }

  apply(index: number, happened: CommandEvent): void {
    const command = this.commands[index];
    if (command === undefined) return;
    const newerWaits = command.state !== "BLOCKED" && this.commands.some((other) => other.state === "BLOCKED");
    const verdict = step({ ...command, newerWaits }, happened);
    if (verdict.kind !== "moved") return;
    this.commands[index] = verdict.facts;
    if (!verdict.effects.includes("promote-next")) return;
    const next = this.commands.findIndex((other) => other.state === "BLOCKED");
    if (next >= 0) this.apply(next, { kind: "ahead-ended" });
  }
}

test("a deployment never has more than one command in flight or ready and one waiting, and nothing stays BLOCKED with nothing ahead", () => {
  const action = fc.oneof(
    fc.record({ do: fc.constant("enqueue" as const), reduces: fc.boolean() }),
    fc.record({ do: fc.constant("event" as const), on: fc.nat(4), event }),
    fc.record({
      do: fc.constant("agent" as const),
      event: fc.constantFrom("received", "succeeded", "failed", "ended", "not-now" as const),
    }),
    fc.constant({ do: "claim" as const }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const model = new Model();
      for (const one of actions) {
        const newest = model.commands.length - 1;
        if (one.do === "enqueue") model.enqueue(one.reduces);
        else if (one.do === "claim") {
          const at = model.commands.findIndex((command) => command.state === "READY");
          if (at >= 0) model.apply(at, { kind: "claimed", epoch: model.epoch });
        } else if (one.do === "agent") {
          const at = model.commands.findIndex((command) => isInFlight(command.state));
          const attempt = model.commands[at]?.attempt ?? 0;
          const current = { attempt, epoch: model.commands[at]?.boundEpoch ?? 0, current: true };
          model.apply(at, { kind: one.event, fence: current, worthRetry: true } as CommandEvent);
        } else if (one.event.kind !== "ahead-ended" && one.event.kind !== "newer")
          model.apply(newest - one.on, one.event);
        const open = model.commands.filter((command) => !isTerminal(command.state));
        const blocked = open.filter((command) => command.state === "BLOCKED").length;
        expect(blocked).toBeLessThanOrEqual(1);
        expect(open.length - blocked).toBeLessThanOrEqual(1);
        if (blocked === 1) expect(open.length).toBe(2);
      }
    }),
    { numRuns: 2_000 },
  );
});
