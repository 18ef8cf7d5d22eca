/**
 * Partitions of the tables of history, by time. They are made ahead and, when
 * everything in one is older than its table's retention, dropped whole.
 *
 * P1: a row always finds a place: what no partition covers goes to the default
 *     one, so that a late upkeep costs tidiness and no write.
 * P2: a lock that others would have to queue behind is asked for shortly, and
 *     given up; the next turn tries again.
 * P3: one replica at a time: each step holds an advisory lock.
 * P4: what leaves is told first, in the transaction of the drop (`leaving`).
 */
import { sql } from "kysely";
import { type Db, transact, type Tx, type Work } from "./transactions.ts";

export interface HistoryTable {
  name: "events" | "audit_events" | "ended_commands";
  /** By which it is partitioned. */
  column: string;
  /** How long its rows are kept at least. */
  keepMs: number;
  /** How many partitions that time is cut into: what is kept too long is at most one of them. */
  pieces: number;
  /** Before these rows of a partition go (P4). False: they stay this time. */
  leaving?(tx: Tx, partition: string, olderThanMs: number | undefined): Promise<boolean>;
}

/** Any number that nobody else uses for advisory locks in this database. */
const historyLock = 7_310_005;
/** P2: a pause of this length in the writes of a table is noticed by nobody. */
const lockWithinMs = 250;
/** Partitions that wait for rows, beside the one that takes them: upkeep may fail for that long. */
const ahead = 2;
/** A partition is never shorter: many small ones make every read slower. */
const shortestMs = 3_600_000;
/** Rows that one statement deletes. */
const batch = 2_000;

interface Partition {
  name: string;
  fromSeconds: number;
  toSeconds: number;
}

/** Runs one bounded step of upkeep, if no other replica is at one (P3). Undefined: one is. */
export async function alone<T>(db: Db, step: (work: Work) => Promise<T>): Promise<T | undefined> {
  return transact(db, async (work) => {
    const { rows } = await sql<{ locked: boolean }>`SELECT pg_try_advisory_xact_lock(${historyLock}) AS locked`.execute(
      work.tx,
    );
    if (rows[0]?.locked !== true) return undefined;
    await sql.raw(`SET LOCAL lock_timeout = ${lockWithinMs}`).execute(work.tx); // P2
    return step(work);
  });
}

/** Makes the partitions that are missing ahead. Returns how many. */
export async function makePartitions(tx: Tx, table: HistoryTable): Promise<number> {
  const width = Math.max(shortestMs, Math.ceil(table.keepMs / table.pieces / shortestMs) * shortestMs) / 1000;
  const now = await nowSeconds(tx);
  let end = (await partitionsOf(tx, table)).at(-1)?.toSeconds ?? 0;
  // After a gap rows of this minute are in the default partition already, and a partition may not begin below them.
  if (end < now) end = now + 60;
  let made = 0;
  for (; end < now + ahead * width; made += 1) {
    const to = (Math.floor(end / width) + 1) * width;
    const name = `${table.name}_p${end}_${to}`;
    // Attached, not made in place: that locks out neither reads nor writes of the table.
    await sql.raw(`CREATE TABLE ${name} (LIKE ${table.name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)`).execute(tx);
    await sql
      .raw(
        `ALTER TABLE ${table.name} ATTACH PARTITION ${name} FOR VALUES FROM (to_timestamp(${end})) TO (to_timestamp(${to}))`,
      )
      .execute(tx);
    end = to;
  }
  return made;
}

/** Drops the oldest partition if all of it is older than the retention. Returns how many (0 or 1). */
export async function dropPartition(tx: Tx, table: HistoryTable): Promise<number> {
  const before = (await nowSeconds(tx)) - table.keepMs / 1000;
  const oldest = (await partitionsOf(tx, table)).find((partition) => partition.toSeconds <= before);
  if (oldest === undefined) return 0;
  await sql.raw(`LOCK TABLE ${table.name} IN ACCESS EXCLUSIVE MODE`).execute(tx); // what is told (P4) is all there will be
  if (table.leaving !== undefined && !(await table.leaving(tx, oldest.name, undefined))) return 0;
  await sql.raw(`DROP TABLE ${oldest.name}`).execute(tx);
  return 1;
}

/** Deletes old rows from where no drop reaches them soon: the default partition, and what was there before partitions. */
export async function deleteRows(tx: Tx, table: HistoryTable): Promise<number> {
  const old = (await partitionsOf(tx, table)).filter((partition) => partition.fromSeconds === 0);
  let deleted = 0;
  for (const name of [...old.map((partition) => partition.name), `${table.name}_default`]) {
    if (table.leaving !== undefined && !(await table.leaving(tx, name, table.keepMs))) continue;
    const { rows } = await sql<{ count: number }>`
      WITH gone AS (DELETE FROM ${sql.table(name)} WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM ${sql.table(name)} WHERE ${sql.ref(table.column)} < now() - make_interval(secs => ${table.keepMs / 1000})
        LIMIT ${batch})) RETURNING 1)
      SELECT count(*)::int AS count FROM gone`.execute(tx);
    deleted += rows[0]?.count ?? 0;
  }
  return deleted;
}

/** All but the default one, oldest first. Their names say their bounds. */
async function partitionsOf(tx: Tx, table: HistoryTable): Promise<Partition[]> {
  const { rows } = await sql<{ name: string }>`
    SELECT c.relname AS name FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass(${table.name})`.execute(tx);
  return rows
    .flatMap(({ name }) => {
      const [, from, to] = /_p(\d+)_(\d+)$/.exec(name) ?? [];
      return to === undefined ? [] : [{ name, fromSeconds: Number(from), toSeconds: Number(to) }];
    })
    .toSorted((a, b) => a.toSeconds - b.toSeconds);
}

async function nowSeconds(tx: Tx): Promise<number> {
  const { rows } = await sql<{ now: number }>`SELECT extract(epoch FROM now())::bigint AS now`.execute(tx);
  return rows[0]?.now ?? 0;
}
