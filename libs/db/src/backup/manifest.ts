/**
 * What a backup is: a folder with one compressed file per table and a manifest
 * that says what belongs to it. A logical copy, so that it fits the embedded
 * PostgreSQL, a separate one, and the next major version of either.
 *
 *   dump.ts  writes one     verify.ts  reads one to its end     load.ts  puts one into an empty database
 *
 * B1: a backup is one moment of the database: one repeatable-read snapshot.
 * B2: it is whole or not there: the folder gets its name last. What a killed
 *     backup leaves is called `<name>.unfinished-*` and has no manifest.
 * B3: nothing is taken from a backup before every file's checksum has been compared.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { DatabaseAddress } from "../pool.ts";
import { migrationNames } from "../migrate.ts";
import pg from "pg";

export const backupReasons = {
  BACKUP_FOLDER_IN_USE: "The folder of a new backup is there already.",
  BACKUP_UNREADABLE: "The folder holds no backup that can be read.",
  BACKUP_DAMAGED: "A file of the backup is missing or not what was written.",
  BACKUP_NEWER: "The backup was made by a newer version.",
  BACKUP_DOES_NOT_FIT: "The backup's tables are not those of its schema.",
  DATABASE_EMPTY: "There is no installation in the database.",
  DATABASE_NEWER: "The database was used by a newer version.",
  DATABASE_NOT_EMPTY: "The database to restore into holds something.",
  SERVER_RUNNING: "A server runs on the database to restore into.",
  ENCRYPTION_KEY_OTHER: "The encryption key is not the one that the backup's secrets were encrypted with.",
} as const satisfies Record<string, string>;
export type BackupReason = keyof typeof backupReasons;

/** Every expected way in which a backup or a restore is refused. */
export class BackupError extends Error {
  readonly reason: BackupReason;
  constructor(reason: BackupReason, message: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.reason = reason;
  }
}

export interface BackedUpTable {
  name: string;
  columns: string[];
  /** Below the folder. */
  file: string;
  rows: number;
  /** Of the compressed file. */
  bytes: number;
  sha256: string;
}

export interface Manifest {
  format: 1;
  /** When the snapshot was taken, by the database's clock. */
  takenAt: string;
  serverVersion: string;
  postgresVersion: string;
  /** Newest migration. */
  schema: string;
  installationId: string;
  incarnation: number;
  /** Id of the key that secrets are encrypted with; not a secret. */
  encryptionKeyId: string;
  /** True: the key lies beside the manifest. */
  encryptionKeyIncluded: boolean;
  /** In an order in which references hold. */
  tables: BackedUpTable[];
  partitions: { parent: string; name: string; bound: string }[];
  sequences: { name: string; value: number | null }[];
}

/** How far a dump, a verification or a load is. */
export interface BackupProgress {
  /** 1 is the first. */
  table: number;
  of: number;
  name: string;
  /** Undefined: under way. */
  rows: number | undefined;
  /** Compressed, so far. */
  bytes: number;
}
export type ReportProgress = (progress: BackupProgress) => void;

/** Between two reports about one large table: a person sees that it goes on. */
export const progressEveryMs = 2_000;

export const manifestFile = "manifest.json";
export const encryptionKeyFile = "encryption-key";
export const fileOf = (table: string): string => join("tables", `${table}.gz`);

/** A bound is pasted into a statement: what is not one of these is none that PostgreSQL wrote for us. */
const bounds = /^(DEFAULT|FOR VALUES (FROM \([^()]*\) TO|IN) \([^()]*\)|FOR VALUES WITH \([^()]*\))$/;
/** Names of ours: no path, no quotes. */
const plainName = /^[a-z_][a-z0-9_]{0,62}$/;

/** Reads the manifest. Throws BACKUP_UNREADABLE, BACKUP_NEWER. */
export async function readManifest(folder: string): Promise<Manifest> {
  let manifest: Manifest;
  try {
    manifest = JSON.parse(await readFile(join(folder, manifestFile), "utf8")) as Manifest;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new BackupError(
      "BACKUP_UNREADABLE",
      `${folder} holds no whole backup (${why}); it may be one that was cut off`,
    );
  }
  if (typeof manifest?.format === "number" && manifest.format > 1) {
    throw new BackupError(
      "BACKUP_NEWER",
      `${folder} has the format ${manifest.format}, which this version does not read: restore with Bowline ${String(manifest.serverVersion)} or newer`,
    );
  }
  if (!isManifest(manifest))
    throw new BackupError("BACKUP_UNREADABLE", `${folder}/${manifestFile} is no manifest of a backup`);
  if (!migrationNames.includes(manifest.schema)) {
    throw new BackupError(
      "BACKUP_NEWER",
      `${folder} has the schema ${manifest.schema} of Bowline ${manifest.serverVersion}, which this version does not know: restore with that version or a newer one`,
    );
  }
  return manifest;
}

function isManifest(given: Manifest): boolean {
  return (
    typeof given === "object" &&
    given?.format === 1 &&
    [given.takenAt, given.serverVersion, given.schema, given.installationId, given.encryptionKeyId].every(
      (text) => typeof text === "string",
    ) &&
    [given.tables, given.partitions, given.sequences].every((list) => Array.isArray(list)) &&
    given.tables.every(
      ({ name, columns, file, rows }) =>
        plainName.test(name) &&
        file === fileOf(name) &&
        Number.isSafeInteger(rows) &&
        Array.isArray(columns) &&
        columns.every((column) => plainName.test(column)),
    ) &&
    given.partitions.every(
      ({ parent, name, bound }) => plainName.test(parent) && plainName.test(name) && bounds.test(bound),
    ) &&
    given.sequences.every(({ name }) => plainName.test(name))
  );
}

/** A connection without limits of time, that writes and reads values as text in one way whatever the database's settings. */
export async function connectAlone(address: DatabaseAddress, applicationName: string): Promise<pg.Client> {
  const client = new pg.Client({
    ...(typeof address === "string" ? { connectionString: address } : address),
    application_name: applicationName,
    connectionTimeoutMillis: connectWithinMs,
  });
  client.on("error", () => {}); // the statement under way reports it
  await client.connect();
  await client.query(
    `SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '${lockWithin}';
     SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 1; SET timezone = UTC`,
  );
  return client;
}

/** A database that is starting takes a moment; one that is not there is told. */
const connectWithinMs = 15_000;
/** Somebody's forgotten transaction shall not hold a restore without end. */
const lockWithin = "30s";
