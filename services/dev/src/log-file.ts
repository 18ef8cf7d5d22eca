/** A log file that cannot fill the disk: at most two files of `maxBytes`. */
import { appendFileSync, renameSync, statSync } from "node:fs";

/** Days of a quiet server; a runaway one keeps its newest words. */
const maxBytes = 5 * 1024 * 1024;

export type LogFile = { path: string; append(text: string): void };

/** Appends to `path`; what was there stays until it is pushed out. */
export function openLogFile(path: string): LogFile {
  let size = sizeOf(path);
  return {
    path,
    append(text) {
      try {
        if (size > maxBytes) {
          renameSync(path, `${path}.1`);
          size = 0;
        }
        appendFileSync(path, text, { mode: 0o600 });
        size += Buffer.byteLength(text);
      } catch {
        // A full disk must not end what runs; the last lines are kept in memory too.
      }
    },
  };
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch {
    return 0; // Not there yet.
  }
}
