/**
 * Compiled code, kept from one start to the next. Without it every start strips
 * the types of hundreds of files and compiles them anew, which costs more than
 * all else that a start does.
 *
 * A main.ts calls `keepCompiledCode()` and then imports the rest with `await
 * import()`: what it imports statically is compiled before the call. So this
 * file imports nothing but node's own modules.
 *
 * K1: what is read back is run as code. So the folder is this user's own, and
 *     nobody else may write there; any other folder is left alone.
 * K2: a cache is a help and never a condition: where there can be none (an
 *     installation that is read-only, or another user's) a start is slower.
 */
import { mkdirSync, statSync } from "node:fs";
import { constants, enableCompileCache } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

/** Beside the sources, with what else can be made anew. */
const beside = fileURLToPath(new URL("../../../.cache/compiled", import.meta.url));

const othersMayWrite = 0o022;

/**
 * Reads and keeps compiled code in `folder`, which is made, with its parent, if it is missing.
 * Node itself honours NODE_COMPILE_CACHE=FOLDER, which goes first, and
 * NODE_DISABLE_COMPILE_CACHE=1. Says whether code is kept; never throws (K2).
 */
export function keepCompiledCode(folder: string = beside): boolean {
  try {
    make(dirname(folder), 0o755);
    make(folder, 0o700);
    const { uid, mode } = statSync(folder);
    if (uid !== process.getuid?.() || (mode & othersMayWrite) !== 0) return false; // K1
    const { ENABLED, ALREADY_ENABLED } = constants.compileCacheStatus;
    const { status } = enableCompileCache(folder);
    return status === ENABLED || status === ALREADY_ENABLED;
  } catch {
    return false; // K2: a folder that cannot be made or read
  }
}

/** Not mkdir's `recursive`: where a parent takes no folders at all (/proc) that never ends. */
function make(folder: string, mode: number): void {
  try {
    mkdirSync(folder, { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}
