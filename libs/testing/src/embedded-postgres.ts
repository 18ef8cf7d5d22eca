/** For tests of the embedded PostgreSQL itself: it runs here or in a process that can be killed. */
import { fileURLToPath } from "node:url";
import pg from "pg";
import { atEnd } from "./endings.ts";
import { type RunningProcess, startProcess } from "./processes.ts";
import {
  type EmbeddedConnection,
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  runEmbeddedPostgres,
} from "@bowline/db";

const program = fileURLToPath(new URL("./embedded-postgres-server.ts", import.meta.url));

type Overrides = Partial<Omit<EmbeddedPostgresOptions, "dataDir" | "log">>;

export type PostgresServer = RunningProcess & {
  postgres: { pid: number; created: boolean; connection: EmbeddedConnection };
};

/** In this process; stopped at the end of the test. */
export async function startEmbeddedPostgres(dataDir: string, options: Overrides = {}): Promise<EmbeddedPostgres> {
  const silent = { info: () => {}, warn: () => {}, error: () => {} };
  const postgres = await runEmbeddedPostgres({ dataDir, log: silent, ...options });
  atEnd(postgres.stop);
  return postgres;
}

/** In a process of its own, `prefix` before it (`unshare …`). */
export async function startPostgresServer(
  dataDir: string,
  options: Overrides = {},
  prefix: string[] = [],
): Promise<PostgresServer> {
  const server = startProcess({ command: [...prefix, process.execPath, program, dataDir, JSON.stringify(options)] });
  const line = await server.untilLine('"pid"', { withinMs: 30_000 });
  return { ...server, postgres: JSON.parse(line) as PostgresServer["postgres"] };
}

/** The reason with which a process of its own refuses. */
export async function postgresRefusal(
  dataDir: string,
  options: Overrides = {},
  prefix: string[] = [],
): Promise<{ reason: string; message: string }> {
  const server = startProcess({ command: [...prefix, process.execPath, program, dataDir, JSON.stringify(options)] });
  return JSON.parse(await server.untilLine('"reason"', { withinMs: 30_000 })) as { reason: string; message: string };
}

/** One statement on a connection of its own. */
export async function query<T extends pg.QueryResultRow>(
  connection: EmbeddedConnection,
  statement: string,
): Promise<T[]> {
  const client = new pg.Client(connection);
  client.on("error", () => {}); // The statement reports it.
  await client.connect();
  try {
    return (await client.query<T>(statement)).rows;
  } finally {
    await client.end();
  }
}
