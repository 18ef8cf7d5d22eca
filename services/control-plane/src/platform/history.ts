/**
 * Upkeep of history: partitions are made ahead, what is older than its
 * retention goes, and what is no longer needed every second moves to where it
 * is not in the way. In bounded steps, one replica at a time (partitions.ts).
 *
 * U1: a step that fails costs its turn; the others still have theirs.
 */
import { systemClock } from "@bowline/kernel";
import { sql } from "kysely";
import { alone, deleteRows, dropPartition, type HistoryTable, makePartitions } from "./partitions.ts";
import { isDatabaseAway } from "./problems.ts";
import type { Db, Tx, Work } from "./transactions.ts";

/** What a step did; a label of metrics. */
export type HistoryDeed =
  | "partition_made"
  | "partition_dropped"
  | "row_deleted"
  | "command_moved"
  | "key_deleted"
  | "generation_deleted";

/** Bounded work of a slice: returns how much it did, and whether more waits. */
export interface HistoryStep {
  deed: HistoryDeed;
  run(work: Work): Promise<{ done: number; more: boolean }>;
}

export interface HistorySettings {
  /** Time between two turns. */
  everyMs: number;
  eventsMs: number;
  commandsMs: number;
  auditMs: number;
}

export interface HistoryParts {
  db: Db;
  settings: HistorySettings;
  /** Of slices, beside the partitions. */
  steps: readonly HistoryStep[];
  log: { warn(fields: object, message: string): void };
  did?: (deed: HistoryDeed, count: number) => void;
}

export interface History {
  /** One turn, before a server is ready: partitions are there before the first write. */
  turn(): Promise<void>;
  run(signal: AbortSignal): Promise<void>;
  /** Seconds since a turn went through without a failure. */
  age(): number;
}

/** How often one step follows itself in a turn: a backlog must not keep the rest from its turn. */
const repeats = 50;
/** Keys that one statement deletes. */
const keysAtOnce = 2_000;

export function createHistory({ db, settings, steps, log, did }: HistoryParts): History {
  const tables: HistoryTable[] = [
    { name: "events", column: "created_at", keepMs: settings.eventsMs, pieces: 4, leaving: raiseFloor },
    { name: "ended_commands", column: "ended_at", keepMs: settings.commandsMs, pieces: 30 },
    { name: "audit_events", column: "at", keepMs: settings.auditMs, pieces: 12 },
  ];
  const all: HistoryStep[] = [
    ...tables.map((table): HistoryStep => once("partition_made", (tx) => makePartitions(tx, table))),
    ...tables.map((table): HistoryStep => again("partition_dropped", (tx) => dropPartition(tx, table))),
    ...tables.map((table): HistoryStep => again("row_deleted", (tx) => deleteRows(tx, table))),
    again("key_deleted", (tx) => deleteKeys(tx, settings.commandsMs)),
    ...steps,
  ];
  let wentThrough = performance.now();

  async function turn(signal?: AbortSignal): Promise<void> {
    let failed = false;
    for (const step of all) {
      try {
        for (let time = 0; time < repeats && signal?.aborted !== true; time += 1) {
          const answer = await alone(db, (work) => step.run(work));
          if (answer === undefined) break; // another replica is at it
          if (answer.done > 0) did?.(step.deed, answer.done);
          if (!answer.more) break;
        }
      } catch (error) {
        failed = true;
        if (signal?.aborted === true || isDatabaseAway(error)) return;
        log.warn({ error, step: step.deed }, "upkeep of history failed; tried again at the next turn"); // U1
      }
    }
    if (!failed) wentThrough = performance.now();
  }

  return {
    turn,
    async run(signal) {
      while (!signal.aborted) {
        await systemClock.sleep(settings.everyMs * (0.9 + Math.random() * 0.2), signal); // replicas that started together part
        if (!signal.aborted) await turn(signal);
      }
    },
    age: () => (performance.now() - wentThrough) / 1000,
  };
}

function once(deed: HistoryDeed, step: (tx: Tx) => Promise<number>): HistoryStep {
  return { deed, run: async ({ tx }) => ({ done: await step(tx), more: false }) };
}

/** As long as it finds something. */
function again(deed: HistoryDeed, step: (tx: Tx) => Promise<number>): HistoryStep {
  return {
    deed,
    run: async ({ tx }) => {
      const done = await step(tx);
      return { done, more: done > 0 };
    },
  };
}

/**
 * A cursor below what leaves is CURSOR_EXPIRED from now on (W4 of events.ts). By position and not by time: an event
 * may have a later position than one that was made after it. Refused while something of it has no position yet.
 */
async function raiseFloor(tx: Tx, partition: string, olderThanMs: number | undefined): Promise<boolean> {
  const old =
    olderThanMs === undefined ? sql`true` : sql`created_at < now() - make_interval(secs => ${olderThanMs / 1000})`;
  const { rows } = await sql<{ unplaced: boolean; highest: number | null }>`
    SELECT coalesce(bool_or(position IS NULL), false) AS unplaced, max(position) AS highest
    FROM ${sql.table(partition)} WHERE ${old}`.execute(tx);
  const [found] = rows;
  if (found === undefined || found.unplaced) return false;
  if (found.highest !== null)
    await sql`UPDATE event_floor SET position = greatest(position, ${found.highest})`.execute(tx);
  return true;
}

/** Idempotency keys are kept as long as the commands that they stand for. */
async function deleteKeys(tx: Tx, keepMs: number): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    WITH gone AS (DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY (
      SELECT ctid FROM idempotency_keys WHERE created_at < now() - make_interval(secs => ${keepMs / 1000})
      ORDER BY created_at LIMIT ${keysAtOnce})) RETURNING 1)
    SELECT count(*)::int AS count FROM gone`.execute(tx);
  return rows[0]?.count ?? 0;
}
