/** Writes a backup of a database that may be in use. See manifest.ts for what holds. */
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import type pg from "pg";
import { to } from "pg-copy-streams";
import type { DatabaseAddress } from "../pool.ts";
import { migrationNames } from "../migrate.ts";
import {
  type BackedUpTable,
  BackupError,
  connectAlone,
  encryptionKeyFile,
  fileOf,
  type Manifest,
  manifestFile,
  progressEveryMs,
  type ReportProgress,
} from "./manifest.ts";

export interface DumpOptions {
  address: DatabaseAddress;
  /** Must not exist, or be empty. */
  folder: string;
  serverVersion: string;
  encryptionKeyId: string;
  /** Content of the key's file; only where the backup shall hold it. */
  encryptionKey?: string;
  report: ReportProgress;
}

/** Who is alive is no part of a history. */
const leftOut = ["replicas"];

/** Writes it beside the folder, then gives it its name (B2). Throws BACKUP_FOLDER_IN_USE, DATABASE_EMPTY, DATABASE_NEWER. */
export async function dump(options: DumpOptions): Promise<Manifest> {
  const folder = resolve(options.folder);
  await mustBeNew(folder);
  await mkdir(dirname(folder), { recursive: true });
  const unfinished = join(dirname(folder), `${basename(folder)}.unfinished-${process.pid}`);
  await mkdir(unfinished, { mode: 0o700 });
  try {
    await mkdir(join(unfinished, "tables"), { mode: 0o700 });
    const manifest = await withSnapshot(options.address, (client) => write(client, unfinished, options));
    if (options.encryptionKey !== undefined)
      await writeDurably(join(unfinished, encryptionKeyFile), options.encryptionKey);
    await writeDurably(join(unfinished, manifestFile), `${JSON.stringify(manifest, undefined, 2)}\n`);
    for (const path of [join(unfinished, "tables"), unfinished]) await syncFolder(path);
    await rename(unfinished, folder); // fails where somebody made a folder of that name with something in it meanwhile
    await syncFolder(dirname(folder));
    return manifest;
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  }
}

/** An empty folder goes: the new one takes its place. A mount point stays, and cannot be replaced. */
async function mustBeNew(folder: string): Promise<void> {
  const found = await readdir(folder).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined;
    if (codeOf(error) === "ENOTDIR")
      throw new BackupError("BACKUP_FOLDER_IN_USE", `${folder} is a file: name another place`);
    throw error;
  });
  if (found === undefined) return;
  if (found.length > 0) {
    throw new BackupError("BACKUP_FOLDER_IN_USE", `${folder} is not empty: name a folder that is not there yet`);
  }
  await rmdir(folder).catch((error: unknown) => {
    if (codeOf(error) !== "EBUSY") throw error;
    throw new BackupError("BACKUP_FOLDER_IN_USE", `${folder} is a mount point: name a new folder inside it`, error);
  });
}

/** B1. No transaction waits for it and it waits for nobody, whatever time it takes; a change of the schema waits. */
async function withSnapshot<T>(address: DatabaseAddress, body: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connectAlone(address, "bowline backup");
  try {
    await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
    const value = await body(client);
    await client.query("COMMIT");
    return value;
  } finally {
    await client.end();
  }
}

async function write(client: pg.Client, folder: string, options: DumpOptions): Promise<Manifest> {
  const [about] = await rowsOf<{ migrated: boolean }>(
    client,
    "SELECT to_regclass('installation') IS NOT NULL AS migrated",
  );
  if (about?.migrated !== true) throw new BackupError("DATABASE_EMPTY", "there is no installation in this database");
  const [facts] = await rowsOf<
    Pick<Manifest, "takenAt" | "postgresVersion" | "schema" | "installationId" | "incarnation">
  >(
    client,
    `SELECT now() AS "takenAt", current_setting('server_version') AS "postgresVersion", id AS "installationId", incarnation,
       (SELECT max(name) FROM kysely_migration) AS schema FROM installation`,
  );
  if (facts === undefined) throw new BackupError("DATABASE_EMPTY", "no server has ever started on this database");
  if (!migrationNames.includes(facts.schema)) {
    throw new BackupError(
      "DATABASE_NEWER",
      `the database has the schema ${facts.schema}, which this version does not know: back up with the version that runs on it`,
    );
  }
  const found = inOrderOfReferences(await tablesOf(client), await referencesOf(client));
  // Else one that is dropped or changed meanwhile would be read as it is then.
  await client.query(
    `LOCK TABLE ${found.map(({ name }) => client.escapeIdentifier(name)).join(", ")} IN ACCESS SHARE MODE`,
  );
  const tables: BackedUpTable[] = [];
  for (const [index, { name, columns }] of found.entries()) {
    const report = (bytes: number, rows?: number) =>
      options.report({ table: index + 1, of: found.length, name, rows, bytes });
    const table = await copyOut(client, folder, name, columns, report);
    tables.push(table);
    report(table.bytes, table.rows);
  }
  return {
    format: 1,
    ...facts,
    takenAt: new Date(facts.takenAt).toISOString(),
    serverVersion: options.serverVersion,
    encryptionKeyId: options.encryptionKeyId,
    encryptionKeyIncluded: options.encryptionKey !== undefined,
    tables,
    partitions: await rowsOf(
      client,
      `SELECT p.relname AS parent, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
       FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_class AS p ON p.oid = i.inhparent
       WHERE c.relispartition AND c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname`,
    ),
    // After the rows: a sequence is in no snapshot, and must not be behind what was drawn from it.
    sequences: await rowsOf(
      client,
      `SELECT sequencename AS name, last_value::float8 AS value FROM pg_sequences WHERE schemaname = current_schema() ORDER BY 1`,
    ),
  };
}

async function copyOut(
  client: pg.Client,
  folder: string,
  name: string,
  columns: string[],
  report: (bytes: number) => void,
): Promise<BackedUpTable> {
  const list = columns.map((column) => client.escapeIdentifier(column)).join(", ");
  // A query, because a partitioned table has no rows of its own to copy.
  const rows = client.query(to(`COPY (SELECT ${list} FROM ${client.escapeIdentifier(name)}) TO STDOUT`));
  const hash = createHash("sha256");
  let bytes = 0;
  let reportedAt = performance.now();
  const measured = new Transform({
    transform(chunk: Buffer, _, done) {
      hash.update(chunk);
      bytes += chunk.byteLength;
      if (performance.now() - reportedAt > progressEveryMs) {
        reportedAt = performance.now();
        report(bytes);
      }
      done(null, chunk);
    },
  });
  const target = createWriteStream(join(folder, fileOf(name)), { mode: 0o600, flush: true });
  await pipeline(rows, createGzip(), measured, target);
  return { name, columns, file: fileOf(name), rows: rows.rowCount ?? 0, bytes, sha256: hash.digest("hex") };
}

async function tablesOf(client: pg.Client): Promise<{ name: string; columns: string[] }[]> {
  return rowsOf(
    client,
    `SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
     FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND c.relname NOT LIKE 'kysely_migration%' AND c.relname <> ALL ($1)
       AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     GROUP BY c.relname ORDER BY c.relname`,
    [leftOut],
  );
}

async function referencesOf(client: pg.Client): Promise<{ from: string; to: string }[]> {
  return rowsOf(
    client,
    `SELECT DISTINCT f.relname AS from, t.relname AS to FROM pg_constraint AS k
     JOIN pg_class AS f ON f.oid = k.conrelid JOIN pg_class AS t ON t.oid = k.confrelid
     WHERE k.contype = 'f' AND f.relnamespace = current_schema()::regnamespace AND f.oid <> t.oid`,
  );
}

/** What is referred to comes first. */
function inOrderOfReferences<Table extends { name: string }>(
  tables: readonly Table[],
  references: readonly { from: string; to: string }[],
): Table[] {
  const ordered: Table[] = [];
  let left = [...tables];
  while (left.length > 0) {
    const waits = new Set(left.map(({ name }) => name));
    const next = left.filter(({ name }) => !references.some((one) => one.from === name && waits.has(one.to)));
    if (next.length === 0) throw new Error(`tables refer to one another in a circle: ${[...waits].join(", ")}`);
    ordered.push(...next);
    left = left.filter((table) => !next.includes(table));
  }
  return ordered;
}

async function rowsOf<Row extends pg.QueryResultRow>(
  client: pg.Client,
  text: string,
  values: unknown[] = [],
): Promise<Row[]> {
  return (await client.query<Row>(text, values)).rows;
}

async function writeDurably(path: string, content: string): Promise<void> {
  await writeFile(path, content, { mode: 0o600, flush: true });
}

function codeOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}

/** A name is on the disk only when its folder is. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
