/** `bowline server backup` and `verify-backup`: by whoever owns the machine, while servers run or not. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { loadOrCreateKeyFile } from "@bowline/auth";
import { BackupError, dump, type Manifest, verifyBackup } from "@bowline/db";
import { ConfigError, loadConfig } from "./config.ts";
import { keyFileOf, onDatabase, printJson, quietLog, sizeOf, tell, tellProgress } from "./machine.ts";
import { serverVersion } from "./version.ts";

export async function backup(args: readonly string[]): Promise<number> {
  const { config, words, switches, json } = loadConfig(args, undefined, {
    ...{ words: 1, switches: ["include-encryption-key"], output: true },
  });
  const [given] = words;
  if (given === undefined) throw new ConfigError("say where: bowline server backup DIR");
  const folder = resolve(given);
  const keyFile = keyFileOf(config);
  if (!existsSync(keyFile)) {
    throw new BackupError(
      "DATABASE_EMPTY",
      `there is no encryption key at ${keyFile}: no server has started with these settings. Name its folder with --data-dir, or the key with --encryption-key-file`,
    );
  }
  const { id } = await loadOrCreateKeyFile(keyFile);
  const included = switches.has("include-encryption-key");
  const encryptionKey = included ? await readFile(keyFile, "utf8") : undefined;
  const manifest = await onDatabase(config, await quietLog(config), { alone: false }, (address) =>
    dump({
      ...{ address, folder, serverVersion, encryptionKeyId: id, report: tellProgress },
      ...(encryptionKey === undefined ? {} : { encryptionKey }),
    }),
  );
  if (included) tell("The encryption key is in this backup: whoever has the folder can read its secrets.");
  else
    tell(`THE ENCRYPTION KEY IS NOT IN THIS BACKUP. Keep a copy of ${keyFile} elsewhere: without it secrets are lost.`);
  printBackup(folder, manifest, json);
  return 0;
}

/** Reads a backup to its end, as a restore does before it begins. Needs no database. */
export async function checkBackup(args: readonly string[]): Promise<number> {
  const { words, json } = loadConfig(args, undefined, { words: 1, output: true });
  const [given] = words;
  if (given === undefined) throw new ConfigError("say which: bowline server verify-backup DIR");
  const folder = resolve(given);
  printBackup(folder, await verifyBackup(folder, tellProgress), json);
  return 0;
}

function printBackup(folder: string, manifest: Manifest, json: boolean): void {
  const { tables, partitions: _, sequences: __, ...about } = manifest;
  const rows = tables.reduce((sum, table) => sum + table.rows, 0);
  const bytes = tables.reduce((sum, table) => sum + table.bytes, 0);
  if (json) return printJson({ folder, ...about, tables: tables.length, rows, bytes });
  tell(`taken at ${about.takenAt} by Bowline ${about.serverVersion} from PostgreSQL ${about.postgresVersion}`);
  tell(
    `schema ${about.schema}, incarnation ${about.incarnation}; ${tables.length} tables, ${rows} rows, ${sizeOf(bytes)}`,
  );
  process.stdout.write(`${folder}\n`);
}
