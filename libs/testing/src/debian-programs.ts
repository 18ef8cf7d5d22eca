/**
 * Where tests find programs that nobody has to install: on the path, else
 * Debian's packages unpacked into the project's cache, without being root.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, renameSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { testSettings } from "./config.ts";
import { removeFolder } from "./folders.ts";

/** A program, and what has to be in its environment. */
export type FoundProgram = { program: string; env: Record<string, string> };

export interface WantedProgram {
  /** Its name on the path. */
  name: string;
  /** Where its package has it. */
  path: string;
  /** The package, and the libraries that a minimal Debian lacks. */
  packages: readonly string[];
  /** What helps where there is neither. */
  missing: string;
}

const cache = fileURLToPath(new URL("../../../.cache", import.meta.url));

/** A few small downloads, or 70 MB of an engine; a mirror that takes longer is not there. */
const downloadTimeoutMs = 120_000;

const run = promisify(execFile);

/** Throws `missing` if there is neither. */
export async function findProgram({ name, path, packages, missing }: WantedProgram): Promise<FoundProgram> {
  for (const folder of testSettings().path.split(delimiter)) {
    const program = join(folder, name);
    if (isExecutable(program)) return { program, env: {} };
  }
  const unpacked = join(cache, name, "debian");
  if (!existsSync(unpacked)) {
    try {
      await unpackTo(unpacked, packages);
    } catch (error) {
      throw new Error(missing, { cause: error });
    }
  }
  const libraries = ["usr/lib", "lib"].flatMap((lib) =>
    ["x86_64-linux-gnu", "aarch64-linux-gnu"].map((triplet) => join(unpacked, lib, triplet)),
  );
  return {
    program: join(unpacked, path),
    env: { LD_LIBRARY_PATH: libraries.filter((folder) => existsSync(folder)).join(delimiter) },
  };
}

/** Whole or not at all; of two files that need it at once, the first to finish wins. */
async function unpackTo(folder: string, packages: readonly string[]): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  const work = mkdtempSync(`${folder}-`);
  try {
    await download(work, packages);
    const root = join(work, "root");
    mkdirSync(root);
    await run("sh", ["-c", 'for deb in *.deb; do dpkg-deb -x "$deb" root || exit 1; done'], { cwd: work });
    try {
      renameSync(root, folder);
    } catch (error) {
      if (!existsSync(folder)) throw error; // else another file was faster
    }
  } finally {
    await removeFolder(work);
  }
}

/** By the system's lists of packages; where it has none, or old ones, by lists fetched into the folder. */
async function download(folder: string, packages: readonly string[]): Promise<void> {
  const bounds = { cwd: folder, timeout: downloadTimeoutMs };
  const ask = (...args: string[]) => run("apt-get", ["--quiet", ...args], bounds);
  try {
    await ask("download", ...packages);
  } catch {
    // A fresh container has no lists. These are its own: no lock is shared with another file, and nobody has to be root.
    const lists = join(folder, "lists");
    mkdirSync(join(lists, "partial"), { recursive: true });
    const own = ["-o", `Dir::State::Lists=${lists}`, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="];
    const asMyself = ["-o", "APT::Sandbox::User=root"];
    await ask(...own, ...asMyself, "update");
    await ask(...own, ...asMyself, "download", ...packages);
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
