/**
 * Transactions, and what follows a commit.
 *
 * T1: nothing that `after` was given happens unless the commit did.
 * T2: locks are taken in one order everywhere: cluster, session, deployment,
 *     command, slice row, each by id.
 * T3: what `last` was given runs when the body is through, in the transaction.
 */
import type { Database } from "@bowline/db";
import { problem } from "@bowline/kernel";
import { type Kysely, sql, type Transaction } from "kysely";
import { isDatabaseAway } from "./problems.ts";

export type Db = Kysely<Database>;
export type Tx = Transaction<Database>;

/** One transaction, with what is to happen after its commit. */
export interface Work {
  tx: Tx;
  /** Runs `effect` once the body is through, before the commit (T3): for writes that gather over the body. */
  last(effect: () => Promise<void>): void;
  /** Runs `effect` after the commit (T1). It must not throw: by then the work is done. */
  after(effect: () => void): void;
}

/** What a transaction had seen before a lock is not so under it: it is run again. */
export class MovedOn extends Error {
  readonly code = "40001";
}

/** Deadlock and serialisation failures: the same work may succeed at once. */
const repeatable = new Set(["40001", "40P01"]);
/** Enough for two transactions that meet; more would hide a wrong lock order (T2). */
const attempts = 3;

/**
 * Runs `body` in one transaction. A deadlock is tried again; a connection lost at COMMIT is
 * COMMIT_UNKNOWN, because the work may be done.
 */
export async function transact<T>(db: Db, body: (work: Work) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    const effects: (() => void)[] = [];
    let committing = false;
    try {
      const result = await db.transaction().execute(async (tx) => {
        const gathered: (() => Promise<void>)[] = [];
        const value = await body({
          tx,
          last: (effect) => gathered.push(effect),
          after: (effect) => effects.push(effect),
        });
        for (const write of gathered) await write();
        committing = true;
        return value;
      });
      for (const effect of effects) effect();
      return result;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      if (typeof code === "string" && repeatable.has(code) && attempt < attempts) continue;
      if (committing && isDatabaseAway(error)) {
        throw problem("COMMIT_UNKNOWN", undefined, { retryAfterMs: 1_000, cause: error });
      }
      throw error;
    }
  }
}

/** Milliseconds since 1970 by the database's clock: a replica's own may be wrong, and replicas' differ. */
export async function databaseTime(db: Db): Promise<number> {
  const { rows } = await sql<{ now: Date }>`SELECT clock_timestamp() AS now`.execute(db);
  return rows[0]?.now.getTime() ?? Date.now();
}

/** `now() + ms` of the database's clock. */
export function nowPlus(ms: number) {
  return sql<Date>`now() + make_interval(secs => ${ms / 1000})`;
}
