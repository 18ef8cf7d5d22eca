/**
 * PostgreSQL's own log: a file that never grows beyond a bound, and its last
 * lines in memory for error messages.
 */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from "node:fs";

/** One file and its predecessor: enough for days of warnings, nothing on a disk. */
const maxFileBytes = 4 * 1024 * 1024;

/** A failed start says why in fewer lines than this. */
const maxTailLines = 20;

/** A line longer than this is cut in the tail; a statement in an error may be long. */
const maxLineChars = 2_000;

export type LogFile = {
  write: (chunk: Buffer) => void;
  /** Calls `listener` with each whole line until the returned function is called. */
  onLine: (listener: (line: string) => void) => () => void;
  /** The last lines of what was written since this object exists. */
  tail: () => string;
  close: () => void;
};

/** Appends to `path`; at `maxFileBytes` the file becomes `path.1` and a new one begins. */
export function openLogFile(path: string): LogFile {
  let file: number | undefined = openSync(path, "a", 0o600);
  let size = fstatSync(file).size;
  let rest = "";
  const tail: string[] = [];
  const listeners = new Set<(line: string) => void>();

  return {
    write: (chunk) => {
      append(chunk);
      const lines = (rest + chunk.toString("utf8")).split("\n");
      rest = (lines.pop() ?? "").slice(-maxLineChars);
      for (const line of lines) {
        tail.push(line.slice(0, maxLineChars));
        if (tail.length > maxTailLines) tail.shift();
        for (const listener of listeners) listener(line);
      }
    },
    onLine: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    tail: () => [...tail, rest].join("\n").trim(),
    close: () => {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };

  function append(chunk: Buffer): void {
    if (file === undefined) return;
    try {
      if (size + chunk.length > maxFileBytes) {
        closeSync(file);
        file = undefined; // If what follows fails, the number may soon be somebody else's.
        renameSync(path, `${path}.1`);
        file = openSync(path, "a", 0o600);
        size = 0;
      }
      size += writeSync(file, chunk);
    } catch {
      // A full disk must not stop the server; PostgreSQL itself will complain through its own errors.
    }
  }
}
