/**
 * Brings commands to sessions: claims for whoever was woken, and pushes IDs.
 * Wake-ups are hints; the poll is the truth.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { DeployCommandSchema } from "@bowline/contract/agent";
import { claim, type AgentSignals, type EnginePorts, type PushedCommand, unreceipted } from "../commands/index.ts";
import { crashPoint } from "@bowline/kernel";
import { createBell } from "../platform/bell.ts";
import { transact } from "../platform/transactions.ts";
import type { EndReason, LiveSession, LiveSessions } from "./live.ts";

/** Commands in flight per session; a host converges few things at once. */
export const commandWindow = 16;
/** Sessions in one claim statement. */
const sessionsPerClaim = 200;
/** Without any wake-up a command is found this late at most; jittered, so that replicas don't poll together. */
const pollMs = 15_000;
/** After a claim that failed (the database is away). */
const retryMs = 500;

export interface Dispatcher extends AgentSignals {
  run(signal: AbortSignal): Promise<void>;
  /** Resolves when the claim that runs now, if any, has ended: a later one sees what the caller changed in its session. */
  claimed(): Promise<void>;
  /** Pushes everything of a session that has no receipt yet. */
  pushUnreceipted(session: LiveSession): Promise<void>;
}

export function createDispatcher(ports: () => EnginePorts, live: LiveSessions): Dispatcher {
  const bell = createBell();
  const woken = new Set<string>();
  let underWay: Promise<void> = Promise.resolve();

  function push(command: PushedCommand): void {
    const session = live.of(command.agentId);
    if (session?.phase === "serving" && session.epoch === command.epoch) {
      if (command.reduces) session.pushedRemovals.add(command.commandId);
      session.times?.pushed(command.commandId);
      session.send({ message: { case: "deployCommand", value: deployCommand(command) } });
    }
  }

  async function round(agentIds: readonly string[], polled: boolean): Promise<void> {
    const claimants = agentIds.flatMap((agentId) => {
      const session = live.of(agentId);
      if (session?.phase !== "serving" || session.takes === "nothing") return [];
      return [{ agentId, epoch: session.epoch, window: session.takes === "removals" ? 0 : commandWindow }];
    });
    const engine = ports();
    const startedAt = performance.now();
    const claimed = await transact(engine.db, (work) => claim(engine, work, claimants));
    if (claimed.length > 0) crashPoint("claim.committed");
    for (const command of claimed) push(command);
    if (claimed.length > 0) engine.metrics?.claimed(polled ? "poll" : "wake", claimed.length);
    for (const { waitedSeconds } of claimed) {
      if (typeof waitedSeconds === "number") engine.metrics?.step("enqueue_to_claim", waitedSeconds);
      engine.metrics?.step("claim_to_push", (performance.now() - startedAt) / 1000);
    }
    // A round that found something may have left something: look again.
    for (const command of claimed) woken.add(command.agentId);
  }

  return {
    wake(agentIds) {
      const here = agentIds.filter((agentId) => live.of(agentId) !== undefined);
      for (const agentId of here) woken.add(agentId);
      if (here.length > 0) ports().metrics?.woken("local", here.length);
      if (woken.size > 0) bell.ring();
    },
    cancel(agentId, commandId, attempt) {
      const session = live.of(agentId);
      if (session?.phase === "serving")
        session.send({ message: { case: "cancelCommand", value: { commandId, attempt } } });
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
    async pushUnreceipted(session) {
      for (const command of await unreceipted(ports(), session.agentId, session.epoch)) push(command);
    },
    claimed: () => underWay.catch(() => undefined), // told where it was claimed
    async run(signal) {
      let pollAt = performance.now() + pollMs * Math.random();
      while (!signal.aborted) {
        const seen = bell.count();
        let polled = false;
        if (performance.now() >= pollAt) {
          polled = woken.size === 0;
          for (const session of live.all()) woken.add(session.agentId);
          pollAt = performance.now() + pollMs * (0.85 + 0.3 * Math.random());
        }
        const agentIds = [...woken].slice(0, sessionsPerClaim);
        for (const agentId of agentIds) woken.delete(agentId);
        try {
          if (agentIds.length > 0) await (underWay = round(agentIds, polled));
        } catch (error) {
          for (const agentId of agentIds) woken.add(agentId);
          if (!signal.aborted) ports().log.warn({ error }, "could not claim; tried again");
          await bell.wait(bell.count(), retryMs, signal);
          continue;
        }
        if (woken.size === 0) await bell.wait(seen, Math.max(1, pollAt - performance.now()), signal);
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
  };
}
