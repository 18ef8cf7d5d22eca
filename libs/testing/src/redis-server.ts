/**
 * Where tests find a redis-server: on the path, else Debian's package unpacked
 * into the project's cache, without installing it and without being root.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, renameSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { testSettings } from "./config.ts";
import { removeFolder } from "./folders.ts";

export type RedisServer = { program: string; env: Record<string, string> };

const cache = fileURLToPath(new URL("../../../.cache/redis", import.meta.url));

/** The package and the libraries that a minimal Debian lacks; about 4 MB. */
const packages = ["redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1", "libssl3", "libsystemd0"];

/** A few small downloads; a mirror that takes longer is not there. */
const downloadTimeoutMs = 60_000;

const run = promisify(execFile);

/** Throws with the command that helps if there is neither. */
export async function findRedisServer(): Promise<RedisServer> {
  for (const folder of testSettings().path.split(delimiter)) {
    const program = join(folder, "redis-server");
    if (isExecutable(program)) return { program, env: {} };
  }
  const unpacked = join(cache, "debian");
  if (!existsSync(unpacked)) {
    try {
      await unpackTo(unpacked);
    } catch (error) {
      throw new Error(
        "tests need a Redis: install one (apt-get install redis-server), or let Debian's package be fetched " +
          "(apt-get update), or set TEST_REDIS_URL",
        { cause: error },
      );
    }
  }
  const libraries = ["usr/lib", "lib"].flatMap((lib) =>
    ["x86_64-linux-gnu", "aarch64-linux-gnu"].map((triplet) => join(unpacked, lib, triplet)),
  );
  return {
    program: join(unpacked, "usr/bin/redis-server"),
    env: { LD_LIBRARY_PATH: libraries.filter((folder) => existsSync(folder)).join(delimiter) },
  };
}

/** Whole or not at all; of two files that need it at once, the first to finish wins. */
async function unpackTo(folder: string): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  const work = mkdtempSync(`${folder}-`);
  try {
    await run("apt-get", ["download", "--quiet", ...packages], { cwd: work, timeout: downloadTimeoutMs });
    const root = join(work, "root");
    mkdirSync(root);
    await run("sh", ["-c", 'for deb in *.deb; do dpkg-deb -x "$deb" root || exit 1; done'], { cwd: work });
    if (!existsSync(folder)) renameSync(root, folder);
  } finally {
    await removeFolder(work);
  }
}

function isExecutable(program: string): boolean {
  try {
    accessSync(program, constants.X_OK);
    return true;
  } catch {
    return false; // Not in this folder.
  }
}
