/**
 * A lock on a folder that the kernel drops when its holder dies, however it dies.
 *
 * Node has no flock(2). SQLite, which Node carries, takes POSIX locks: an open
 * exclusive transaction on an empty file is one. Unlike a file with a pid in it,
 * it needs no guess about whether that pid is still the same process, and it
 * holds between containers that share the folder on one machine.
 *
 * K1: while `release` was not called and the process lives, nobody else gets the lock.
 * K2: the lock file is never deleted: a deleted file can be locked twice.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { propertyOf } from "./errors.ts";

export type FolderLock =
  | { held: true; release: () => void }
  /** `by` is the pid that the holder wrote down, if it can be read: for people, not for decisions. */
  | { held: false; by: number | undefined };

/** SQLite's code for "somebody else has the lock". */
const sqliteBusy = 5;

/**
 * An exclusive lock is taken in steps, and of two who are between the first and the last of them neither gets on, until
 * one steps back: without this time both would be refused.
 */
const stepBackMs = 100;

/**
 * Tries to take the lock of `folder`, which must exist and be writable. Of any number who try at once one gets it; who
 * does not is told within a moment. Throws only for what a file system can throw.
 */
export function lockFolder(folder: string): FolderLock {
  const holderFile = join(folder, "lock.pid");
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(join(folder, "lock"), { timeout: stepBackMs });
    database.exec("BEGIN EXCLUSIVE");
  } catch (error) {
    database?.close();
    if (propertyOf(error, "errcode") === sqliteBusy) {
      return { held: false, by: readPid(holderFile) };
    }
    throw error;
  }
  writeFileSync(holderFile, `${process.pid}\n`);
  const open = database;
  let released = false;
  return {
    held: true,
    release: () => {
      if (released) return;
      released = true;
      open.close();
    },
  };
}

function readPid(file: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(file, "utf8"), 10);
    return Number.isSafeInteger(pid) ? pid : undefined;
  } catch {
    return undefined; // The holder has not written it yet; the message does without.
  }
}
