/** Reads a backup to its end. See manifest.ts for what holds. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { type BackedUpTable, BackupError, type Manifest, readManifest, type ReportProgress } from "./manifest.ts";

/** B3. Throws BACKUP_DAMAGED with the first file that is not as it was written, and what readManifest throws. */
export async function verifyBackup(folder: string, report: ReportProgress = () => {}): Promise<Manifest> {
  const manifest = await readManifest(folder);
  for (const [index, table] of manifest.tables.entries()) {
    await verifyTable(folder, table);
    report({ table: index + 1, of: manifest.tables.length, ...table });
  }
  return manifest;
}

async function verifyTable(folder: string, table: BackedUpTable): Promise<void> {
  const hash = createHash("sha256");
  let lines = 0;
  const count = new Writable({
    write(chunk: Buffer, _, done) {
      for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines += 1;
      done();
    },
  });
  try {
    const file = createReadStream(join(folder, table.file));
    file.on("data", (chunk) => hash.update(chunk));
    await pipeline(file, createGunzip(), count);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new BackupError("BACKUP_DAMAGED", `${table.file} cannot be read (${why}): use another backup`, error);
  }
  if (hash.digest("hex") !== table.sha256 || lines !== table.rows) {
    throw new BackupError("BACKUP_DAMAGED", `${table.file} is not what was written: use another backup`);
  }
}
