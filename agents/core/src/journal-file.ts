/** Where a journal is kept: a log that is appended to, and written anew now and then. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

/** One caller at a time. */
export interface JournalFile {
  /** What is there; undefined: nothing yet. */
  read(): Buffer | undefined;
  /**
   * Puts these lines in the place of what is there, whole or not at all, and resolves with their size when they are on
   * the disk. Takes them all before it returns.
   */
  replace(lines: Iterable<string>): Promise<number>;
  /** Resolves when the text is on the disk. After a rejection some of it may be. */
  append(text: string): Promise<void>;
  close(): Promise<void>;
}

/** `journal.log` in a folder of the agent's, which is made where it is missing. */
export function journalFile(folder: string): JournalFile {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, "journal.log");
  let file: FileHandle | undefined;
  return {
    read: () => (existsSync(path) ? readFileSync(path) : undefined),
    async replace(lines) {
      const bytes = rewrite(folder, path, lines);
      const before = file;
      file = undefined; // it is of the replaced log; where the new one cannot be opened, appending fails and says so
      await before?.close();
      file = await open(path, "a", 0o600);
      return bytes;
    },
    async append(text) {
      if (file === undefined) throw new Error("the journal was not opened");
      await file.appendFile(text);
      await file.datasync();
    },
    close: async () => file?.close(),
  };
}

/** Writes beside the log and puts that in its place; returns its size. */
function rewrite(folder: string, path: string, lines: Iterable<string>): number {
  const beside = `${path}.new`;
  const file = openSync(beside, "w", 0o600);
  let bytes = 0;
  try {
    for (const line of lines) {
      writeFileSync(file, line); // unlike writeSync, all of it or an error: a disk that fills up takes a part
      bytes += Buffer.byteLength(line);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(beside, path);
  const parent = openSync(folder, "r");
  fsyncSync(parent); // the rename itself
  closeSync(parent);
  return bytes;
}
