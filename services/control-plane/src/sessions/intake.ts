/**
 * What comes up the streams, on its way to the database: batched over all
 * sessions of the replica. Progress and heartbeats keep only the newest;
 * nothing else is dropped.
 */
import type { Capacity, CommandProgress, CommandReceipt, DeployResult, StateReport } from "@bowline/contract/agent";
import { crashPoint, problem } from "@bowline/kernel";
import { sql } from "kysely";
import {
  type EnginePorts,
  type From,
  recordProgress,
  recordReports,
  recordStates,
  type Report,
  type ResultAnswer,
  type Without,
} from "../commands/index.ts";
import { createBatcher } from "../platform/batches.ts";
import { problemOf } from "../platform/problems.ts";
import { recordRuntimeProblems } from "./runtime-problems.ts";
import { storable } from "./storable.ts";

/**
 * Messages of all sessions that wait for a commit; above it an agent is told to come again (it repeats results by
 * itself), and progress is left out.
 */
const maxWaiting = 20_000;
/**
 * Nobody waits for a receipt: those that come shortly after a set began gather for the next, for less than people see.
 * A result takes along what gathered before it.
 */
const receiptsGatherMs = 20;
/** Progress is for people: at most this often per commit. */
const progressEveryMs = 250;
/** Reports in one transaction: it holds the rows of their publishes. */
const progressTogether = 100;
/** `last_seen` in the database; presence in memory is exact. */
const seenEveryMs = 5_000;

export interface Intake {
  receipt(from: From<CommandReceipt>): Promise<void>;
  result(from: From<DeployResult>): Promise<ResultAnswer>;
  progress(from: From<CommandProgress>): void;
  /** `runtimeProblem` as a heartbeat says it; undefined: nothing is said of it. */
  seen(agentId: string, capacity: Capacity | undefined, runtimeProblem?: string): void;
  state(from: From<StateReport>): Promise<void>;
  /** Writes progress, last_seen and problems of runtimes until `signal` aborts, and once more then. */
  run(signal: AbortSignal): Promise<void>;
  /** What waits for a commit, by queue. */
  waiting(): Record<"reports" | "progress" | "last_seen", number>;
}

/** A message that fails alone this often is recorded without its owner's slice (A1 of commands/apart.ts). */
const triesWithOwner = 3;
/** Messages whose failures are counted; beyond it the longest known is counted anew. */
const maxCounted = 1_000;

/** Records a set; what has failed alone too often is recorded without its owners. */
function createPatience() {
  const failures = new Map<string, number>();
  return async <Answer>(
    items: readonly From<{ commandId: string; attempt: number }>[],
    record: (without?: Without) => Promise<Answer>,
  ): Promise<Answer> => {
    try {
      return await record();
    } catch (error) {
      const [item] = items;
      // Where the database is away, or refuses the words themselves, no slice is to blame.
      if (item === undefined || items.length > 1 || problemOf(error).reason !== "INTERNAL") throw error;
      const key = `${item.agentId} ${item.message.commandId} ${item.message.attempt}`;
      const count = (failures.get(key) ?? 0) + 1;
      failures.delete(key);
      if (count >= triesWithOwner) return record({ ownersFor: error });
      failures.set(key, count);
      const [longestKnown] = failures.keys();
      if (failures.size > maxCounted && longestKnown !== undefined) failures.delete(longestKnown);
      throw error;
    }
  };
}

interface Seen {
  at: number;
  capacity: Capacity | undefined;
  runtimeProblem: string | undefined;
}

export function createIntake(
  ports: EnginePorts,
  clock: { sleep(ms: number, signal?: AbortSignal): Promise<void> },
): Intake {
  const unlessItsOwnerFails = createPatience();
  const reports = createBatcher<From<Report>, ResultAnswer | undefined>(
    async (items) => {
      const answers = await unlessItsOwnerFails(items, (without) => recordReports(ports, items, without));
      if (answers.some((answer) => answer !== undefined)) crashPoint("results.committed");
      return answers;
    },
    {
      maxWaiting,
      patient: {
        are: ({ message }) => message.$typeName === "bowline.agent.v1.CommandReceipt",
        gatherMs: receiptsGatherMs,
      },
      overloaded() {
        ports.metrics?.dropped("reports");
        return problem("OVERLOADED", "More reports wait for the database than this replica takes.");
      },
    },
  );
  const newestProgress = new Map<string, From<CommandProgress>>();
  /** `at` is of this process's monotonic clock; the database's clock says what time that was. */
  const newestSeen = new Map<string, Seen>();

  async function writeProgress(): Promise<void> {
    const reports = [...newestProgress.values()];
    newestProgress.clear();
    for (let from = 0; from < reports.length; from += progressTogether)
      await recordProgress(ports, reports.slice(from, from + progressTogether));
  }

  async function writeSeen(): Promise<void> {
    if (newestSeen.size === 0) return;
    const rows = [...newestSeen].toSorted(([a], [b]) => (a < b ? -1 : 1));
    newestSeen.clear();
    const now = performance.now();
    const problems = new Map<string, string>();
    for (const [agentId, { capacity, runtimeProblem }] of rows) {
      if (capacity !== undefined) storable(capacity);
      if (runtimeProblem !== undefined) problems.set(agentId, storable({ runtimeProblem }).runtimeProblem);
    }
    const column = <T>(read: (capacity: Capacity | undefined) => T): T[] =>
      rows.map(([, { capacity }]) => read(capacity));
    await sql`
      INSERT INTO agent_seen (agent_id, last_seen_at, running, instance_limit, load_millis, memory_millis, disk_free_bytes)
      SELECT s.agent_id, now() - make_interval(secs => s.seconds), s.running, s.instance_limit, s.load_millis,
        s.memory_millis, s.disk_free_bytes
      FROM unnest(${rows.map(([agentId]) => agentId)}::text[], ${rows.map(([, { at }]) => (now - at) / 1000)}::float8[],
        ${column((c) => c?.running ?? 0)}::int[], ${column((c) => c?.limit ?? 0)}::int[], ${column((c) => c?.loadMillis ?? 0)}::int[],
        ${column((c) => c?.memoryMillis ?? 0)}::int[], ${column((c) => (c?.diskFreeBytes ?? 0n).toString())}::bigint[])
        AS s (agent_id, seconds, running, instance_limit, load_millis, memory_millis, disk_free_bytes)
      JOIN agents AS a ON a.id = s.agent_id
      ON CONFLICT (agent_id) DO UPDATE SET last_seen_at = greatest(agent_seen.last_seen_at, excluded.last_seen_at),
        running = excluded.running, instance_limit = excluded.instance_limit, load_millis = excluded.load_millis,
        memory_millis = excluded.memory_millis, disk_free_bytes = excluded.disk_free_bytes`.execute(ports.db);
    await recordRuntimeProblems(ports, problems);
  }

  return {
    async receipt(from) {
      await reports.add(from);
    },
    async result(from) {
      const answer = await reports.add(from);
      if (answer === undefined) throw problem("INTERNAL");
      return answer;
    },
    progress: (from) => {
      // Of each agent for itself: nobody's word takes the place of another's.
      const key = `${from.agentId} ${from.message.commandId}`;
      if (newestProgress.size < maxWaiting || newestProgress.has(key)) newestProgress.set(key, from);
      else ports.metrics?.dropped("progress");
    },
    seen: (agentId, capacity, runtimeProblem) => {
      const known = capacity ?? newestSeen.get(agentId)?.capacity;
      newestSeen.set(agentId, { at: performance.now(), capacity: known, runtimeProblem });
    },
    state: (from) => recordStates(ports, from, from.message.observation, from.message.deployments),
    waiting: () => ({
      reports: reports.waiting(),
      progress: newestProgress.size,
      last_seen: newestSeen.size,
    }),
    async run(signal) {
      let seenAt = performance.now();
      while (!signal.aborted) {
        await clock.sleep(progressEveryMs, signal);
        try {
          await writeProgress();
          if (performance.now() - seenAt >= seenEveryMs || signal.aborted) {
            seenAt = performance.now();
            await writeSeen();
          }
        } catch (error) {
          // Hints, both of them: the next ones follow.
          if (!signal.aborted) ports.log.warn({ error }, "progress or last_seen could not be written");
        }
      }
    },
  };
}
