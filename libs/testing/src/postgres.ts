/**
 * A database of one's own for a test file: a clone of a template that is
 * migrated once per run, on a real PostgreSQL that the run shares (jest/holder.ts):
 * the embedded one, or `TEST_DATABASE_URL`.
 */
import { createConnection } from "node:net";
import { type Database, type DatabaseAddress, openDatabase, type OpenDatabase } from "@bowline/db";
import type { Kysely } from "kysely";
import { testSettings } from "./config.ts";
import { addressOf, connectionsTo, createDatabase, dropDatabase, urlOf, withClient } from "./databases.ts";
import { atEnd } from "./endings.ts";
import type { HolderAnswer } from "./jest/holder.ts";
import { until } from "./until.ts";

export type TestDatabase = {
  db: Kysely<Database>;
  name: string;
  address: DatabaseAddress;
  /** The address for `BOWLINE_DATABASE_URL` of a process. */
  url: string;
  /** Another pool on the same database, ended with it: for tests of several servers. */
  open: (options?: { maxConnections?: number; applicationName?: string }) => OpenDatabase;
  /**
   * Ends the pools and drops the database. Called at the end by itself; throws if a connection is left open after
   * `withinMs` (15 s).
   */
  end: (withinMs?: number) => Promise<void>;
};

/** initdb, start and migration on a busy machine. */
const holderTimeoutMs = 60_000;

/** The backend of a process that was killed goes a moment after it. */
const connectionsEndWithinMs = 15_000;

/** A test file and its server; the shared PostgreSQL serves many of them. */
const maxConnections = 10;

let created = 0;
let holder: Promise<Extract<HolderAnswer, { ok: true }>> | undefined;

/**
 * Creates a database that is dropped at the end of the test or file. Migrated
 * to the newest schema, or empty with `migrated: false`.
 */
export async function testDatabase(options: { migrated?: boolean } = {}): Promise<TestDatabase> {
  const shared = await (holder ??= askHolder());
  created += 1;
  const name = `${shared.prefix}_${process.pid}_${created}`;
  await withClient(shared.address, (client) =>
    createDatabase(client, name, options.migrated === false ? undefined : shared.template),
  );
  const address = addressOf(shared.address, name);
  const pools: OpenDatabase[] = [];
  const open: TestDatabase["open"] = (poolOptions = {}) => {
    const pool = openDatabase({
      address,
      applicationName: `pool ${pools.length} of the test`,
      maxConnections,
      ...poolOptions,
    });
    pools.push(pool);
    return pool;
  };
  const { db } = open();
  let ending: Promise<void> | undefined;
  const end: TestDatabase["end"] = (withinMs) => (ending ??= endDatabase(shared.address, name, pools, withinMs));
  atEnd(() => (ending === undefined ? end() : undefined)); // Else the caller has its outcome.
  return { db, name, address, url: urlOf(address), open, end };
}

/** A database that somebody else made, empty or not, as startServer takes one: its pools end with the test. */
export function databaseAt(url: string): TestDatabase {
  const pools: OpenDatabase[] = [];
  const open: TestDatabase["open"] = (more = {}) => {
    const pool = openDatabase({
      address: url,
      applicationName: `pool ${pools.length} of the test`,
      maxConnections,
      ...more,
    });
    pools.push(pool);
    return pool;
  };
  const { db } = open();
  const end = async (): Promise<void> => {
    for (const pool of pools) await pool.end();
  };
  atEnd(end);
  return { db, name: "bowline", address: url, url, open, end };
}

async function endDatabase(
  server: DatabaseAddress,
  name: string,
  pools: OpenDatabase[],
  withinMs = connectionsEndWithinMs,
): Promise<void> {
  for (const pool of pools) await pool.end();
  await withClient(server, async (client) => {
    let left: string[] = [];
    try {
      await until(async () => (left = await connectionsTo(client, name)).length === 0, {
        withinMs,
      });
    } catch {
      throw new Error(`connections to the test's database were left open: ${left.join(", ")}`);
    } finally {
      await dropDatabase(client, name);
    }
  });
}

/** Asks for the shared server; the first of a run waits until it is up. */
function askHolder(): Promise<Extract<HolderAnswer, { ok: true }>> {
  const { holderSocket } = testSettings();
  if (holderSocket === undefined) {
    throw new Error(
      "the jest run has no holder of a PostgreSQL: globalSetup must be libs/testing/src/jest/global-setup.ts",
    );
  }
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = createConnection(holderSocket);
    socket
      .setEncoding("utf8")
      .setTimeout(holderTimeoutMs, () => socket.destroy(new Error("the tests' PostgreSQL did not come up")));
    socket.on("data", (chunk: string) => (text += chunk));
    socket.on("error", reject);
    socket.on("close", () => {
      const answer: HolderAnswer = text === "" ? { ok: false, message: "the holder ended" } : JSON.parse(text);
      if (answer.ok) resolve(answer);
      else reject(new Error(`no PostgreSQL for tests: ${answer.message}`));
    });
  });
}
