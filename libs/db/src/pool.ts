/**
 * The pool: bounded connections, and no statement, transaction or connection
 * attempt without an end. One dialect and one driver, whoever runs the PostgreSQL.
 */
import { Kysely, PostgresDialect, type PostgresPool } from "kysely";
import pg from "pg";
import type { Database } from "./tables.ts";

/** Where the database is: a URL, or what the embedded PostgreSQL returned. */
export type DatabaseAddress = string | { host: string; port: number; user: string; database: string };

export type DatabaseSettings = {
  address: DatabaseAddress;
  /** Shown in pg_stat_activity; says which process holds a lock. */
  applicationName: string;
  /** Connections at the same time. Default 10: two cores of PostgreSQL are busy with fewer. */
  maxConnections?: number;
  /** A statement that takes longer is cancelled by the server. Default 30 s: above every statement of ours. */
  statementTimeoutMs?: number;
  /**
   * A transaction whose process says nothing for longer is ended by the server, with its locks. Default 60 s. A replica's
   * lease: what one that stands still has begun is undone before others take its place.
   */
  idleInTransactionMs?: number;
  /** How long a caller waits for a connection, a free one or a new one. Default 5 s: then it says so. */
  connectTimeoutMs?: number;
  /** An idle connection was lost (the database restarts, a failover). The pool replaces it; this is for the log. */
  onConnectionLost?: (error: Error) => void;
  /** A caller has a connection, after this many seconds. For metrics. */
  onAcquired?: (seconds: number) => void;
};

export type OpenDatabase = {
  db: Kysely<Database>;
  /** Connections in use, idle, and callers that wait for one. */
  load: () => { total: number; idle: number; waiting: number };
  /** Waits for what is under way and closes all connections. May be called twice. */
  end: () => Promise<void>;
};

const defaultMaxConnections = 10;
const defaultStatementTimeoutMs = 30_000;
const defaultConnectTimeoutMs = 5_000;

/** A transaction whose owner forgot it holds locks that others wait for. */
const defaultIdleInTransactionMs = 60_000;

/** Keeps a quiet server from holding on to memory of PostgreSQL's backends. */
const idleConnectionMs = 30_000;

/**
 * A connection keeps the plan that it made first (below), which on a table that is still small reads all of it; and reads
 * all of it when the table has grown a thousandfold, until an ANALYZE comes by. Where an index serves, it serves at every size.
 */
const planByIndex = "-c enable_seqscan=off";

/** Opens the pool. Connects with the first statement; throws nothing about the network. */
export function openDatabase(settings: DatabaseSettings): OpenDatabase {
  const { address } = settings;
  const pool = new pg.Pool({
    ...(typeof address === "string" ? { connectionString: address } : address),
    application_name: settings.applicationName,
    max: settings.maxConnections ?? defaultMaxConnections,
    statement_timeout: settings.statementTimeoutMs ?? defaultStatementTimeoutMs,
    connectionTimeoutMillis: settings.connectTimeoutMs ?? defaultConnectTimeoutMs,
    idle_in_transaction_session_timeout: settings.idleInTransactionMs ?? defaultIdleInTransactionMs,
    idleTimeoutMillis: idleConnectionMs,
    keepAlive: true,
    options: planByIndex,
    types: { getTypeParser },
  });
  // Without a listener the loss of an idle connection would end the process.
  pool.on("error", (error) => settings.onConnectionLost?.(error));
  // The same for one in use, between two statements of a transaction: its next statement tells, and the pool drops it.
  pool.on("connect", (client) => client.on("error", () => {}));
  // pg offers no hook for a connection's statements; Kysely hands each one to `query` of the client that it gets.
  pool.on("connect", prepareStatements);
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool: timed(pool, settings.onAcquired) }) });
  let ending: Promise<void> | undefined;
  return {
    db,
    load: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    // Kysely ends the pool only if it was used; an unused one has nothing to end.
    end: () => (ending ??= db.destroy()),
  };
}

/** The pool as kysely uses it, with the time that each caller waited. */
function timed(pool: pg.Pool, acquired: DatabaseSettings["onAcquired"]): PostgresPool {
  if (acquired === undefined) return pool;
  return {
    options: pool.options,
    async connect() {
      const askedAt = performance.now();
      const client = await pool.connect();
      acquired((performance.now() - askedAt) / 1000);
      return client;
    },
    end: () => pool.end(),
  };
}

/** PostgreSQL's number of its type bigint (`count(*)`, sequences). */
const int8 = 20;

/** Reads bigint as a number; every other type as pg does. */
const getTypeParser: typeof pg.types.getTypeParser = (oid: number, format?: "text" | "binary") => {
  if (oid === int8 && format !== "binary") return parseInt8;
  return pg.types.getTypeParser(oid, format as "text");
};

function parseInt8(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value)) return value;
  // Rounding would turn one id into another in silence.
  throw new RangeError(`the bigint ${text} is beyond what a number can hold exactly; cast it to text in the query`);
}

/** Statements that a connection keeps prepared: several times what this code has, below what a backend's memory minds. */
const maxPrepared = 500;
/** A statement is worth keeping once it has come this often. */
const preparedFrom = 3;

/**
 * Has a connection parse and plan each frequent statement once: on the short transactions here planning costs more than
 * running.
 *
 * B1: a statement that returns `*` is never kept: a newer replica's migration may add a column, and PostgreSQL refuses
 *     a kept statement whose result has changed. Of `unnest` it is what the statement itself names.
 */
function prepareStatements(client: pg.PoolClient): void {
  /** How often a text came; `never`; or its name. */
  const seen = new Map<string, number | typeof never | string>();
  let kept = 0;
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  const prepared = (...args: unknown[]): unknown => {
    const [text, values] = args;
    if (typeof text !== "string" || !Array.isArray(values) || values.length === 0) return query(...args);
    let known = seen.get(text) ?? 0;
    if (known === 0 && seen.size >= maxSeen) return query(...args);
    if (typeof known === "number") {
      if (known === 0 && returnsAll.test(text)) known = never;
      else if (known < preparedFrom) known += 1;
      else if (kept < maxPrepared) known = `bowline_${(kept += 1)}`;
      else known = never;
      seen.set(text, known);
    }
    if (typeof known === "number" || known === never) return query(...args);
    return query({ name: known, text, values }, ...args.slice(2));
  };
  client.query = prepared as typeof client.query;
}

const never = Symbol("never kept");
/** B1. */
const returnsAll = /(select|returning|,|\.) ?(distinct )?\*(?! from unnest\()|\.\*|"\*"/i;
/** Texts that are counted: lists of many lengths make many, and each may be long. */
const maxSeen = 2_000;
