/** Temporary folders that end with the test. */
import { mkdtempSync, realpathSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atEnd } from "./endings.ts";

/** A process that is about to end may still write; rm then finds its folder not empty. */
const removeRetries = 20;
const removeRetryDelayMs = 50;

/** Makes an empty folder of mode 0700 and returns its real path; it is removed at the end. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), "bowline-test-"));
  atEnd(() => removeFolder(folder));
  return folder;
}

/** Removes a folder and all in it, also while its last writer is ending. */
export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: removeRetries, retryDelay: removeRetryDelayMs });
}
