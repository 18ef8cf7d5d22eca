/**
 * One life of the PostgreSQL process: from spawn to ready to its end.
 *
 * P1: once `startPostgres` has thrown or `ended` has resolved, the process is gone.
 * P2: what postgres says is in the log before it is reported.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { EmbeddedPostgresError } from "./errors.ts";
import type { LogFile } from "./log-file.ts";
import { childEnvironment, type RunAs } from "./run-as.ts";
import { postgresArguments, type PostgresSettings } from "./settings.ts";

/** A replay of max_wal_size (256 MB) takes seconds; a hanging disk takes for ever. */
const startTimeoutMs = 60_000;

/** A fast shutdown writes at most 32 MB; then WAL recovery is the quicker way to the same data. */
const fastShutdownMs = 8_000;

/** An immediate shutdown needs no disk. */
const immediateShutdownMs = 3_000;

export type PostgresEnd = { code: number | null; signal: NodeJS.Signals | null };

export type PostgresProcess = {
  pid: number;
  ended: Promise<PostgresEnd>;
  /** Fast shutdown, then immediate, then SIGKILL; resolves when the process is gone, within 12 s. */
  stop: () => Promise<void>;
};

/** Resolves when connections are accepted. Throws POSTGRES_START_FAILED or DATA_DIRECTORY_IN_USE. */
export async function startPostgres(
  runAs: RunAs,
  dataFolder: string,
  settings: PostgresSettings,
  log: LogFile,
): Promise<PostgresProcess> {
  const program = join(runAs.binariesRoot, "bin", "postgres");
  const [first = program, ...others] = [...runAs.server.prefix, program, ...postgresArguments(dataFolder, settings)];
  // A session of its own: Ctrl-C in the terminal goes to a whole process group, and
  // the server still needs its database while it shuts down.
  const child = spawn(first, others, {
    ...runAs.server.identity,
    env: childEnvironment,
    cwd: "/",
    detached: true,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = endOf(child, log);
  const ready = Promise.withResolvers<"ready">();
  const unhook = log.onLine((line) => {
    if (line.includes("database system is ready to accept connections")) ready.resolve("ready");
  });
  const timeout = Promise.withResolvers<"timeout">();
  const timer = setTimeout(() => timeout.resolve("timeout"), startTimeoutMs);
  const outcome = await Promise.race([ready.promise, ended, timeout.promise]);
  clearTimeout(timer);
  unhook();

  const stop = () => stopInSteps(child, ended);
  if (outcome === "ready" && child.pid !== undefined) return { pid: child.pid, ended, stop };
  await stop();
  const said = log.tail();
  if (said.includes('lock file "postmaster.pid" already exists')) {
    throw new EmbeddedPostgresError("DATA_DIRECTORY_IN_USE", `another PostgreSQL uses ${dataFolder}:\n${said}`);
  }
  throw new EmbeddedPostgresError(
    "POSTGRES_START_FAILED",
    outcome === "timeout"
      ? `PostgreSQL was not ready after ${startTimeoutMs / 1000} s:\n${said}`
      : `PostgreSQL ended before it was ready:\n${said}`,
  );
}

/** Resolves after the last output, so that the log holds the reason. */
function endOf(child: ChildProcess, log: LogFile): Promise<PostgresEnd> {
  child.stderr?.on("data", (chunk: Buffer) => log.write(chunk));
  return new Promise((resolve) => {
    child.once("error", (error) => {
      log.write(Buffer.from(`${error.message}\n`));
      resolve({ code: null, signal: null });
    });
    // Not "close": a backend that outlives a killed postmaster for a moment holds the pipe.
    child.once("exit", (code, signal) => setImmediate(resolve, { code, signal }));
  });
}

async function stopInSteps(child: ChildProcess, ended: Promise<PostgresEnd>): Promise<void> {
  if (child.pid === undefined) return;
  for (const [signal, forMs] of [
    ["SIGINT", fastShutdownMs],
    ["SIGQUIT", immediateShutdownMs],
  ] as const) {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    const late = Promise.withResolvers<"late">();
    const timer = setTimeout(() => late.resolve("late"), forMs);
    const outcome = await Promise.race([ended, late.promise]);
    clearTimeout(timer);
    if (outcome !== "late") return;
  }
  child.kill("SIGKILL");
  await ended;
}
