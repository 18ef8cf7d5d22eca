/**
 * Signals to whoever holds an agent's session: in this process if it is here,
 * else a word to the replica that the session's row names (platform/words.ts).
 *
 * G1: after a commit, and never waited for. Who holds a session is read from
 *     its row, in one statement for all that gathered meanwhile.
 * G2: what is lost here is found by the holder's poll, its sweep, or at the
 *     renewal of its lease.
 */
import { type AgentSignals, type EnginePorts } from "../commands/index.ts";
import { createBell } from "../platform/bell.ts";
import type { Way, Word, Words } from "../platform/words.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { EndReason, LiveSessions } from "./live.ts";
import { endSuperseded } from "./upkeep.ts";

export interface RoutingPorts {
  engine: () => EnginePorts;
  live: LiveSessions;
  dispatcher: Dispatcher;
  words: Words;
  replicaId: string;
}

export interface Routing extends AgentSignals {
  /** Signals that wait for a look at the rows, for metrics. */
  waiting(): number;
  /** What another replica says. */
  heard(word: Word, way: Way): void;
  run(signal: AbortSignal): Promise<void>;
}

type Kind = "wake" | "tell" | "look";

/** Agents that wait for one look; beyond it they are left to polls (G2). */
const maxWaiting = 20_000;
/** Rows of one statement. */
const lookedUpTogether = 1_000;
/** Without a signal there is nothing to do; a bound for the wait all the same. */
const idleMs = 60_000;

export function createRouting({ engine, live, dispatcher, words, replicaId }: RoutingPorts): Routing {
  const bell = createBell();
  const gathered: Record<Kind, Set<string>> = { wake: new Set(), tell: new Set(), look: new Set() };

  function gather(kind: Kind, agentIds: readonly string[]): void {
    for (const agentId of agentIds) {
      if (gathered[kind].size < maxWaiting) gathered[kind].add(agentId);
      else engine().metrics?.dropped("signals");
    }
    if (agentIds.length > 0) bell.ring();
  }

  /** G1. */
  async function route(kind: Kind, agentIds: readonly string[]): Promise<void> {
    let query = engine()
      .db.selectFrom("sessions")
      .select(["agent_id", "replica_id"])
      .where("agent_id", "in", agentIds)
      .where("replica_id", "<>", replicaId);
    // An ended one has nobody to wake; its holder may still have to hear that it ended.
    if (kind !== "look") query = query.where("state", "<>", "ENDED");
    const byReplica = Map.groupBy(await query.execute(), (row) => row.replica_id);
    for (const [to, rows] of byReplica) words.send(to, { [kind]: rows.map((row) => row.agent_id) });
  }

  function elsewhere(agentIds: readonly string[]): string[] {
    return agentIds.filter((agentId) => live.of(agentId) === undefined);
  }

  function later(what: Promise<void>): void {
    what.catch((error: unknown) => engine().log.warn({ error }, "a word could not be followed; a poll will"));
  }

  return {
    wake(agentIds) {
      dispatcher.wake(agentIds);
      gather("wake", elsewhere(agentIds));
    },
    cancel(agentId, commandId, attempt) {
      dispatcher.cancel(agentId, commandId, attempt);
      gather("tell", elsewhere([agentId]));
    },
    pushAgain(agentId, commandId) {
      dispatcher.pushAgain(agentId, commandId);
      gather("tell", elsewhere([agentId]));
    },
    close(agentId, reason, of) {
      if (of !== undefined && of !== replicaId) return words.send(of, { look: [agentId] });
      live.of(agentId)?.close(reason as EndReason);
      gather("look", [agentId]);
    },
    waiting: () => gathered.wake.size + gathered.tell.size + gathered.look.size,
    heard(word, way) {
      if (word.wake !== undefined) dispatcher.wake(word.wake, way);
      if (word.tell !== undefined) later(dispatcher.tell(word.tell));
      if (word.look !== undefined) {
        const { look } = word;
        later(
          endSuperseded(engine(), live, look).then(() => {
            // Whoever woke the agent here meanwhile meant the session that it has now.
            gather("wake", look);
          }),
        );
      }
    },
    async run(signal) {
      while (!signal.aborted) {
        const seen = bell.count();
        for (const kind of ["look", "wake", "tell"] as const) {
          const agentIds = [...gathered[kind]].slice(0, lookedUpTogether);
          for (const agentId of agentIds) gathered[kind].delete(agentId);
          if (agentIds.length === 0) continue;
          await route(kind, agentIds).catch((error: unknown) => {
            if (!signal.aborted) engine().log.warn({ error }, "it could not be read who holds sessions; polls will");
          });
        }
        if (this.waiting() === 0) await bell.wait(seen, idleMs, signal);
      }
    },
  };
}
