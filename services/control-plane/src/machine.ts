/**
 * What commands of the machine's owner stand on: the database that the settings
 * name, without a server. The embedded one of a server that runs is found by
 * its data folder; one that is stopped runs for the time.
 */
import { join } from "node:path";
import {
  BackupError,
  type BackupProgress,
  type DatabaseAddress,
  findEmbeddedPostgres,
  type OpenDatabase,
  openDatabase,
  runEmbeddedPostgres,
} from "@bowline/db";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import { createLog } from "./log.ts";

/** Progress and hints: standard error. Results: standard output. */
export const tell = (line: string): void => void process.stderr.write(`${line}\n`);

export function tellProgress({ table, of, name, rows, bytes }: BackupProgress): void {
  const at = `${String(table).padStart(String(of).length)}/${of} ${name}`;
  tell(rows === undefined ? `${at}: ${sizeOf(bytes)} so far` : `${at}: ${rows} rows, ${sizeOf(bytes)}`);
}

export function sizeOf(bytes: number): string {
  const units = ["B", "KB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

/**
 * Hands over the address of the database. With `alone` an embedded one must be free, and is made where there is none;
 * else there must be one. Throws DATABASE_EMPTY, SERVER_RUNNING.
 */
export async function onDatabase<T>(
  config: Config,
  log: Logger,
  how: { alone: boolean },
  body: (address: DatabaseAddress) => Promise<T>,
): Promise<T> {
  if (config.databaseUrl !== "") return body(config.databaseUrl);
  const dataDir = join(config.dataDir, "postgres");
  const found = findEmbeddedPostgres(dataDir);
  if (found.kind === "running") {
    if (!how.alone) return body(found.connection);
    throw new BackupError("SERVER_RUNNING", `a server runs on ${config.dataDir}: stop it first`);
  }
  if (found.kind === "none" && !how.alone) {
    throw new BackupError(
      "DATABASE_EMPTY",
      `there is no database in ${config.dataDir}: name its folder with --data-dir, or its address with BOWLINE_DATABASE_URL`,
    );
  }
  const embedded = await runEmbeddedPostgres({ dataDir, log });
  try {
    return await body(embedded.connection);
  } finally {
    await embedded.stop();
  }
}

export async function withDatabase<T>(
  address: DatabaseAddress,
  body: (database: OpenDatabase) => Promise<T>,
): Promise<T> {
  const database = openDatabase({ address, applicationName: "bowline restore", maxConnections: 2 });
  try {
    return await body(database);
  } finally {
    await database.end();
  }
}

export function keyFileOf(config: Config): string {
  return config.encryptionKeyFile || join(config.dataDir, "encryption-key");
}

/** As people know it; no password. */
export function placeOf(config: Config): string {
  return config.databaseUrl === "" ? `the embedded database in ${config.dataDir}` : "the separate database";
}

/** What these commands have to say they say themselves. */
export function quietLog(config: Config): Promise<Logger> {
  return createLog({
    level: config.logLevel === "info" ? "warn" : config.logLevel,
    format: config.logFormat || "pretty",
  });
}
