/** Creating and dropping databases on a PostgreSQL that tests share. */
import type { DatabaseAddress } from "@bowline/db";
import pg from "pg";

/** The same server, another database. */
export function addressOf(address: DatabaseAddress, database: string): DatabaseAddress {
  if (typeof address !== "string") return { ...address, database };
  const url = new URL(address);
  url.pathname = `/${database}`;
  return url.href;
}

/** As `BOWLINE_DATABASE_URL` and `pg` read it, also for a unix socket. */
export function urlOf(address: DatabaseAddress): string {
  if (typeof address === "string") return address;
  const { host, port, user, database } = address;
  return `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(host)}`;
}

/** One connection for `use`, closed afterwards. */
export async function withClient<T>(address: DatabaseAddress, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client(typeof address === "string" ? { connectionString: address } : address);
  client.on("error", () => {}); // The statement under way reports it.
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

/** `template` must have no connections; without one the database is empty. */
export async function createDatabase(client: pg.Client, name: string, template = "template0"): Promise<void> {
  const [database, source] = [name, template].map((text) => client.escapeIdentifier(text));
  await client.query(`CREATE DATABASE ${database} TEMPLATE ${source}`);
}

/** Drops a database and every connection to it; no error if it is gone. */
export async function dropDatabase(client: pg.Client, name: string): Promise<void> {
  await client.query(`DROP DATABASE IF EXISTS ${client.escapeIdentifier(name)} WITH (FORCE)`);
}

export async function dropDatabases(address: DatabaseAddress, chosen: (name: string) => boolean): Promise<void> {
  await withClient(address, async (client) => {
    const { rows } = await client.query<{ datname: string }>("SELECT datname FROM pg_database");
    for (const { datname } of rows) if (chosen(datname)) await dropDatabase(client, datname);
  });
}

/** Who is connected to a database, beside the asker; for messages. */
export async function connectionsTo(client: pg.Client, name: string): Promise<string[]> {
  const { rows } = await client.query<{ who: string }>(
    `SELECT coalesce(nullif(application_name, ''), 'unnamed') || ' (' || coalesce(state, 'unknown') || ')' AS who
       FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type = 'client backend'`,
    [name],
  );
  return rows.map((row) => row.who);
}
