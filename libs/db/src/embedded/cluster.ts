/**
 * The data folder: created once, whole or not at all, and checked before use.
 */
import { spawn } from "node:child_process";
import {
  existsSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  closeSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { EmbeddedPostgresError } from "./errors.ts";
import { giveTo } from "./reach.ts";
import { childEnvironment, type RunAs } from "./run-as.ts";
import { databaseName, roleName } from "./settings.ts";

/** One second on a laptop; a slow network disk needs minutes for the thousand small files. */
const initdbTimeoutMs = 300_000;

/** More than initdb ever prints. */
const maxOutputChars = 64 * 1024;

/**
 * Makes sure that `dataFolder` holds a cluster of this major version; returns
 * whether it had to be created. Throws POSTGRES_VERSION_MISMATCH,
 * POSTGRES_DATA_UNUSABLE or POSTGRES_INITDB_FAILED.
 */
export async function ensureCluster(
  dataFolder: string,
  binaries: Binaries,
  runAs: RunAs,
  durable: boolean,
): Promise<{ created: boolean }> {
  removeUnfinished(dataFolder);
  if (existsSync(dataFolder)) {
    checkVersion(dataFolder, binaries);
    own(runAs, dataFolder);
    return { created: false };
  }
  // A name of its own: an initdb that lost its server may still be writing into the former one.
  const unfinished = mkdtempSync(`${dataFolder}.new-`);
  if (runAs.kind !== "self") giveTo(runAs.creation.files, unfinished);
  const bin = join(runAs.binariesRoot, "bin");
  await runProgram(runAs, join(bin, "initdb"), [
    ...["-D", unfinished, "-U", roleName, "--encoding=UTF8", "--locale=C"],
    ...["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"],
    ...["--auth=trust", "--no-instructions"], // The socket's folder is the authentication.
    ...(durable ? [] : ["--no-sync"]),
  ]);
  await runProgram(
    runAs,
    join(bin, "postgres"),
    ["--single", "-D", unfinished, ...(durable ? [] : ["-F"]), "postgres"],
    `CREATE DATABASE ${databaseName} OWNER ${roleName}\n`,
  );
  own(runAs, unfinished);
  renameSync(unfinished, dataFolder);
  removeUnfinished(dataFolder);
  if (durable) syncFolder(dirname(dataFolder));
  return { created: true };
}

/** What interrupted creations left. */
function removeUnfinished(dataFolder: string): void {
  for (const name of readdirSync(dirname(dataFolder))) {
    if (!name.startsWith(`${basename(dataFolder)}.new-`)) continue;
    try {
      rmSync(join(dirname(dataFolder), name), { recursive: true, force: true });
    } catch {
      // It is still being written to, which ends soon; the next start removes it.
    }
  }
}

/** PostgreSQL refuses a folder of another owner; only root can do something about it. */
function own(runAs: RunAs, folder: string): void {
  if (runAs.kind !== "self") return giveTo(runAs.server.files, folder);
  const { uid } = statSync(folder);
  if (uid === runAs.server.files.uid) return;
  throw new EmbeddedPostgresError(
    "DATA_DIRECTORY_NOT_WRITABLE",
    `${folder} belongs to user ${uid}, and this is user ${runAs.server.files.uid}: ` +
      `start as its owner, change the owner, or choose another data directory`,
  );
}

function checkVersion(dataFolder: string, binaries: Binaries): void {
  let found: string;
  try {
    found = readFileSync(join(dataFolder, "PG_VERSION"), "utf8").trim();
  } catch (error) {
    throw new EmbeddedPostgresError(
      "POSTGRES_DATA_UNUSABLE",
      `${dataFolder} is not a PostgreSQL data folder: move it away, or choose another data directory`,
      error,
    );
  }
  if (found !== binaries.major) {
    throw new EmbeddedPostgresError(
      "POSTGRES_VERSION_MISMATCH",
      `${dataFolder} was written by PostgreSQL ${found}, and this is PostgreSQL ${binaries.major}: ` +
        `back it up with the version of Bowline that wrote it and restore that here (docs/operations/backup.md), or choose another data directory`,
    );
  }
}

/** Runs to the end. Throws POSTGRES_INITDB_FAILED with what the program said. */
async function runProgram(runAs: RunAs, program: string, args: string[], input = ""): Promise<void> {
  const [first = program, ...others] = [...runAs.creation.prefix, program, ...args];
  const child = spawn(first, others, {
    ...runAs.creation.identity,
    env: childEnvironment,
    cwd: "/",
    timeout: initdbTimeoutMs,
  });
  let output = "";
  const keep = (chunk: Buffer) => {
    output = (output + chunk.toString("utf8")).slice(-maxOutputChars);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  child.stdin.on("error", () => {}); // It ended before it read; its exit tells why.
  child.stdin.end(input);
  const end = await new Promise<string | undefined>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (code, signal) => resolve(code === 0 ? undefined : `it ended with ${signal ?? code}`));
  });
  // The single-user server reports an error of its statement and then ends with 0.
  if (end !== undefined || /(ERROR|FATAL|PANIC):/.test(output)) {
    throw new EmbeddedPostgresError(
      "POSTGRES_INITDB_FAILED",
      `creating the database in ${dirname(program)} failed: ${[end, output.trim()].filter(Boolean).join("\n")}`,
    );
  }
}

/** A rename is on the disk only when its folder is. */
function syncFolder(folder: string): void {
  const handle = openSync(folder, "r");
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}
