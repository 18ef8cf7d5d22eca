/**
 * Brings commands to the sessions of this replica: claims for whoever was
 * woken, and pushes IDs. Wake-ups are hints; the poll is the truth. What is
 * meant for other replicas' sessions goes through routing.ts.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { DeployCommandSchema } from "@bowline/contract/agent";
import {
  agentsWithReady,
  type AgentSignals,
  type Cancelling,
  cancelling,
  claim,
  type Claimant,
  type EnginePorts,
  type Here,
  type PushedCommand,
  telling,
  unreceipted,
  type Without,
  withReady,
} from "../commands/index.ts";
import { crashPoint } from "@bowline/kernel";
import { noTraces, type Span } from "@bowline/traces";
import { createBell } from "../platform/bell.ts";
import type { WakeVia } from "../platform/metrics.ts";
import { problemOf } from "../platform/problems.ts";
import { transact } from "../platform/transactions.ts";
import type { EndReason, LiveSession, LiveSessions } from "./live.ts";

/** Commands in flight per session; a host converges few things at once. */
export const commandWindow = 16;
/** Sessions in one claim statement. */
const sessionsPerClaim = 200;
/** Without any wake-up a command is found this late at most; jittered, so that replicas don't poll together. */
const pollMs = 15_000;
/** The same while wake-ups don't arrive as they should (Redis is away). */
const pollDeafMs = 1_000;
/** After a claim that failed (the database is away). */
const retryMs = 500;

export interface Dispatcher extends AgentSignals {
  run(signal: AbortSignal): Promise<void>;
  /** Claims in the transactions of enqueues. */
  here: Here;
  wake(agentIds: readonly string[], via?: WakeVia): void;
  /** Cancels and pushes for sessions of this replica, as their rows say: another replica changed them. */
  tell(agentIds: readonly string[]): Promise<void>;
  /** Looks at everything that this replica owns, within a second: something may have been missed. */
  rescan(): void;
  /** Resolves when the claim that runs now, if any, has ended: a later one sees what the caller changed in its session. */
  claimed(): Promise<void>;
  /** Everything of a session that has no receipt yet, to be pushed. */
  unreceipted(session: LiveSession): Promise<{ push: () => void }>;
}

export interface DispatcherPorts {
  engine: () => EnginePorts;
  live: LiveSessions;
  replicaId: string;
  /** Whether wake-ups reach this replica as they should. */
  hears: () => boolean;
}

export function createDispatcher({ engine: ports, live, replicaId, hears }: DispatcherPorts): Dispatcher {
  const bell = createBell();
  const woken = new Set<string>();
  /** Agents in `woken` that only the poll knows of. */
  const polled = new Set<string>();
  /** Cancels that a session was sent; the poll repeats none. */
  const cancelsSent = new WeakMap<LiveSession, Set<string>>();
  let polledAt = performance.now() - pollMs * Math.random();
  let pollJitter = 1;
  let rescanAt = Number.POSITIVE_INFINITY;
  let underWay: Promise<void> = Promise.resolve();
  /** Claims of enqueues, while their statements run. */
  const atOnce = new Set<Promise<unknown>>();

  function partOf(command: PushedCommand, name: string, at?: number): Span {
    const { traceParent: parent, commandId, attempt } = command;
    const attributes = { "bowline.command": commandId, "bowline.attempt": attempt };
    return (ports().traces ?? noTraces).part(name, { parent, attributes, at });
  }

  function push(command: PushedCommand): void {
    const session = live.of(command.agentId);
    if (session?.phase === "serving" && session.epoch === command.epoch) {
      if (command.reduces) session.pushedRemovals.add(command.commandId);
      session.times?.pushed(command.commandId);
      const span = partOf(command, "command.push");
      session.send({ message: { case: "deployCommand", value: deployCommand(command) } });
      span.end();
    }
  }

  function sendCancel({ agentId, commandId, attempt }: Omit<Cancelling, "epoch">, again: boolean): void {
    const session = live.of(agentId);
    if (session?.phase !== "serving") return;
    const sent = cancelsSent.get(session) ?? new Set();
    cancelsSent.set(session, sent);
    const which = `${commandId} ${attempt}`;
    if (sent.has(which) && !again) return;
    sent.add(which);
    session.send({ message: { case: "cancelCommand", value: { commandId, attempt } } });
  }

  async function sendCancels(agentIds?: readonly string[]): Promise<void> {
    for (const found of await cancelling(ports(), replicaId, agentIds)) {
      if (live.of(found.agentId)?.epoch === found.epoch) sendCancel(found, false);
    }
  }

  /** One statement each, for all that this replica owns. */
  async function poll(): Promise<void> {
    for (const agentId of await agentsWithReady(ports(), replicaId)) {
      if (live.of(agentId) === undefined || woken.has(agentId)) continue;
      woken.add(agentId);
      polled.add(agentId);
    }
    await sendCancels();
    polledAt = performance.now();
    pollJitter = 0.85 + 0.3 * Math.random();
    rescanAt = Number.POSITIVE_INFINITY;
  }

  const pollAt = (): number => Math.min(rescanAt, polledAt + (hears() ? pollMs : pollDeafMs) * pollJitter);

  /** A slice that throws keeps nobody's command from it: it is told apart (commands/apart.ts). */
  async function claimFor(able: readonly Claimant[]): Promise<PushedCommand[]> {
    const engine = ports();
    const take = (without?: Without) =>
      transact(engine.db, async (work) => {
        const taken = await claim(engine, work, able, { tell: telling(engine, without) });
        if (taken.length > 0) crashPoint("claim.before-commit");
        return taken;
      });
    try {
      return await take();
    } catch (error) {
      const { reason } = problemOf(error);
      if (reason === "DATABASE_UNAVAILABLE" || reason === "COMMIT_UNKNOWN") throw error; // no slice is to blame
      return take({ ownersFor: error });
    }
  }

  function claimantsOf(agentIds: readonly string[]): Claimant[] {
    return agentIds.flatMap((agentId) => {
      const session = live.of(agentId);
      if (session?.phase !== "serving" || session.takes === "nothing") return [];
      return [{ agentId, epoch: session.epoch, window: commandWindow, onlyReducing: session.takes === "removals" }];
    });
  }

  /** After the commit of their claim. `began`: what it began, on the clock of the process and on that of traces. */
  function pushAll(claimed: readonly PushedCommand[], began: { at: number; wall: number }): void {
    if (claimed.length === 0) return;
    crashPoint("claim.committed");
    for (const command of claimed) partOf(command, "command.claim", began.wall).end();
    for (const command of claimed) push(command);
    for (const { waitedSeconds } of claimed) {
      if (typeof waitedSeconds === "number") ports().metrics?.step("enqueue_to_claim", waitedSeconds);
      ports().metrics?.step("claim_to_push", (performance.now() - began.at) / 1000);
    }
  }

  async function round(agentIds: readonly string[], foundByPoll: ReadonlySet<string>): Promise<void> {
    const claimants = claimantsOf(agentIds);
    const engine = ports();
    const began = { at: performance.now(), wall: Date.now() };
    // Each end of a try wakes its agent, and each claim looks again: most rounds find nothing, and shall cost little.
    const ready = await withReady(
      engine,
      claimants.map((one) => one.agentId),
    );
    if (ready.size === 0) return;
    const able = claimants.filter((one) => ready.has(one.agentId));
    const claimed = await claimFor(able);
    pushAll(claimed, began);
    const polled = claimed.filter((command) => foundByPoll.has(command.agentId)).length;
    if (polled > 0) engine.metrics?.claimed("poll", polled);
    if (claimed.length > polled) engine.metrics?.claimed("wake", claimed.length - polled);
    // A round that found something may have left something: look again.
    for (const command of claimed) woken.add(command.agentId);
  }

  return {
    wake(agentIds, via = "local") {
      const here = agentIds.filter((agentId) => live.of(agentId) !== undefined);
      for (const agentId of here) {
        woken.add(agentId);
        polled.delete(agentId);
      }
      if (here.length > 0) ports().metrics?.woken(via, here.length);
      if (woken.size > 0) bell.ring();
    },
    cancel: (agentId, commandId, attempt) => sendCancel({ agentId, commandId, attempt }, true),
    async tell(agentIds) {
      const here = agentIds.filter((agentId) => live.of(agentId)?.phase === "serving");
      if (here.length === 0) return;
      await sendCancels(here);
      for (const agentId of here) {
        const session = live.of(agentId);
        if (session?.phase === "serving")
          for (const command of await unreceipted(ports(), agentId, session.epoch)) push(command);
      }
    },
    rescan() {
      rescanAt = Math.min(rescanAt, performance.now() + pollDeafMs * Math.random());
      bell.ring();
    },
    pushAgain(agentId, commandId) {
      const session = live.of(agentId);
      if (session?.phase !== "serving") return; // while syncing: everything unreceipted is pushed at its end
      void unreceipted(ports(), agentId, session.epoch, commandId).then(
        (commands) => commands.forEach(push),
        (error: unknown) => ports().log.warn({ error, agentId }, "could not push again; the sweep will"),
      );
    },
    close(agentId, reason) {
      live.of(agentId)?.close(reason as EndReason);
    },
    async unreceipted(session) {
      const commands = await unreceipted(ports(), session.agentId, session.epoch);
      return { push: () => commands.forEach(push) };
    },
    // How each ended is told where it was claimed.
    claimed: async () => void (await Promise.allSettled([underWay, ...atOnce])),
    here: {
      async claim(agentIds, claimFor) {
        const claimants = claimantsOf(agentIds);
        if (claimants.length === 0) return [];
        const claiming = claimFor(claimants);
        atOnce.add(claiming);
        try {
          const claimed = await claiming;
          if (claimed.length > 0) crashPoint("claim.before-commit");
          return claimed;
        } finally {
          atOnce.delete(claiming);
        }
      },
      push(claimed) {
        pushAll(claimed, { at: performance.now(), wall: Date.now() });
        if (claimed.length > 0) ports().metrics?.claimed("enqueue", claimed.length);
      },
    },
    async run(signal) {
      while (!signal.aborted) {
        const seen = bell.count();
        let agentIds: string[] = [];
        try {
          if (performance.now() >= pollAt()) await poll();
          agentIds = [...woken].slice(0, sessionsPerClaim);
          const foundByPoll = new Set(agentIds.filter((agentId) => polled.delete(agentId)));
          for (const agentId of agentIds) woken.delete(agentId);
          if (agentIds.length > 0) await (underWay = round(agentIds, foundByPoll));
        } catch (error) {
          for (const agentId of agentIds) woken.add(agentId);
          if (!signal.aborted) ports().log.warn({ error }, "could not claim; tried again");
          await bell.wait(bell.count(), retryMs, signal);
          continue;
        }
        if (woken.size === 0) await bell.wait(seen, Math.max(1, pollAt() - performance.now()), signal);
      }
    },
  };
}

function deployCommand(command: PushedCommand): MessageInitShape<typeof DeployCommandSchema> {
  return {
    productPublishId: command.productPublishId,
    commandId: command.commandId,
    deploymentId: command.deploymentId,
    generation: command.generation,
    digest: command.digest,
    attempt: command.attempt,
    runTimeoutMs: command.runTimeoutMs,
    reduces: command.reduces,
    traceParent: command.traceParent,
  };
}
