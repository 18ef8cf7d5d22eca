/**
 * The supervisor of the embedded PostgreSQL: a real PostgreSQL as a child of
 * this process, durable, on a unix socket in a private folder. Nothing listens
 * on the network, and there is no password: the folder's mode is the lock.
 *
 *   folders.ts   what lies where           binaries.ts  the programs from npm
 *   lock.ts      one server per folder     run-as.ts    which user, and who ends whom
 *   cluster.ts   created once, checked     survivor.ts  what an earlier server left
 *   settings.ts  sized for an idle laptop  process.ts   one life of the process
 *   log-file.ts  bounded                   errors.ts    every way this can be refused
 *
 * M1: at most one PostgreSQL runs on a data folder, and only while its lock is held.
 * M2: when `ended` has resolved, no process, socket folder or lock is left.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { findBinaries } from "./binaries.ts";
import { ensureCluster } from "./cluster.ts";
import { EmbeddedPostgresError } from "./errors.ts";
import { makeSocketFolder, prepareDataDir, type SocketFolder } from "./folders.ts";
import { lockFolder } from "./lock.ts";
import { openLogFile } from "./log-file.ts";
import { startPostgres, type PostgresProcess } from "./process.ts";
import { chooseRunAs, findAbilities, type Abilities } from "./run-as.ts";
import { databaseName, type EmbeddedConnection, roleName, socketPort } from "./settings.ts";
import { endSurvivor } from "./survivor.ts";

export { EmbeddedPostgresError, embeddedPostgresReasons, type EmbeddedPostgresReason } from "./errors.ts";
export { findEmbeddedPostgres, type EmbeddedState } from "./running.ts";
export type { EmbeddedConnection } from "./settings.ts";
export { lockFolder, type FolderLock } from "./lock.ts";

/** The part of a pino logger that is used here. */
export type EmbeddedPostgresLog = {
  info: (fields: object, message: string) => void;
  warn: (fields: object, message: string) => void;
  error: (fields: object, message: string) => void;
};

export type EmbeddedPostgresOptions = {
  /** Created if absent. Holds everything; see folders.ts. */
  dataDir: string;
  log: EmbeddedPostgresLog;
  /** Default true. False gives up committed data at a crash of the machine, for tests. */
  durable?: boolean;
  /** Client connections at the same time. Default 50: several pools and room for an operator. */
  maxConnections?: number;
  /** More of PostgreSQL's own settings, which win over ours: ours are for a machine that does other things too. */
  settings?: Readonly<Record<string, string | number>>;
  /** What the machine allows; found out if absent. */
  abilities?: Abilities;
};

export type EmbeddedPostgresEnd =
  | { kind: "stopped" }
  /** It ended by itself more often than a restart can help; the log file has its words. */
  | { kind: "failed"; message: string };

export type EmbeddedPostgres = {
  connection: EmbeddedConnection;
  /** PostgreSQL's version, for example `18.4`. */
  version: string;
  /** Of the running process; changes when it had to be restarted. */
  pid: () => number;
  /** True if this start created the database (initdb). */
  created: boolean;
  /** PostgreSQL's own log. */
  logFile: string;
  /** Resolves once, after `stop` or when it cannot be kept running. Never rejects. */
  ended: Promise<EmbeddedPostgresEnd>;
  /** Stops PostgreSQL cleanly (12 s at most) and resolves when all is released. May be called twice. */
  stop: () => Promise<void>;
};

const defaultMaxConnections = 50;

/** A PostgreSQL that was killed once comes back; one that keeps dying needs a person. */
const maxRestarts = 5;
const restartWindowMs = 60_000;

/** Backends of a killed postmaster need a moment to notice; until then a new one is refused. */
const restartDelayMs = 200;

/**
 * Starts the embedded PostgreSQL and keeps it running until `stop`. Resolves
 * when connections are accepted: in about 0.1 s, or 1–2 s when the database
 * has to be created. Throws EmbeddedPostgresError; then nothing is left running.
 */
export async function runEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { log, durable = true, maxConnections = defaultMaxConnections, settings: more = {} } = options;
  const binaries = findBinaries();
  const dataDir = prepareDataDir(options.dataDir);
  const lock = lockFolder(dataDir);
  if (!lock.held) {
    throw new EmbeddedPostgresError(
      "DATA_DIRECTORY_IN_USE",
      `${dataDir} is in use by another server${lock.by === undefined ? "" : ` (process ${lock.by})`}: ` +
        `stop it, or choose another data directory`,
    );
  }
  const releases: (() => void)[] = [lock.release];
  try {
    const dataFolder = join(dataDir, "data");
    const abilities = options.abilities ?? (await findAbilities());
    const runAs = chooseRunAs(dataDir, !existsSync(dataFolder), binaries, abilities);
    if (!runAs.endsWithUs) {
      log.warn(
        {},
        "setpriv (util-linux) is missing: after a kill -9 of this process PostgreSQL runs on until the next start",
      );
    }
    const survived = await endSurvivor(dataFolder);
    if (survived) log.warn({ dataFolder }, "stopped a PostgreSQL that an earlier server left running");
    const socket: SocketFolder = makeSocketFolder(dataDir, runAs);
    releases.push(socket.remove);
    const { created } = await ensureCluster(dataFolder, binaries, runAs, durable);
    const logFile = join(dataDir, "postgres.log");
    const output = openLogFile(logFile);
    releases.push(output.close);
    const start = () =>
      startPostgres(runAs, dataFolder, { socketFolder: socket.path, durable, maxConnections, more }, output);

    const supervised = supervise(await start(), start, log, output.tail);
    const ended = supervised.ended.then((end) => {
      for (const release of releases.toReversed()) release();
      return end;
    });
    return {
      connection: { host: socket.path, port: socketPort, user: roleName, database: databaseName },
      version: binaries.version,
      pid: supervised.pid,
      created,
      logFile,
      ended,
      stop: async () => {
        supervised.stop();
        await ended;
      },
    };
  } catch (error) {
    for (const release of releases.toReversed()) release();
    throw error;
  }
}

type Supervised = { ended: Promise<EmbeddedPostgresEnd>; pid: () => number; stop: () => void };

/** Starts another process when one ends unasked, `maxRestarts` times within `restartWindowMs`. */
function supervise(
  first: PostgresProcess,
  start: () => Promise<PostgresProcess>,
  log: EmbeddedPostgresLog,
  lastWords: () => string,
): Supervised {
  const stopping = new AbortController();
  let current = first;
  return { ended: keepRunning(), pid: () => current.pid, stop: () => stopping.abort() };

  async function keepRunning(): Promise<EmbeddedPostgresEnd> {
    const asked = new Promise<"asked">((resolve) => {
      stopping.signal.addEventListener("abort", () => resolve("asked"), { once: true });
    });
    const ends: number[] = [];
    for (;;) {
      const outcome = await Promise.race([asked, current.ended]);
      if (outcome === "asked") {
        await current.stop();
        return { kind: "stopped" };
      }
      log.error({ ...outcome, lastWords: lastWords() }, "the embedded PostgreSQL ended unasked");
      for (let restarted = false; !restarted;) {
        ends.push(Date.now());
        if (ends.filter((at) => at > Date.now() - restartWindowMs).length > maxRestarts) {
          return { kind: "failed", message: `the embedded PostgreSQL keeps ending:\n${lastWords()}` };
        }
        await sleep(restartDelayMs);
        if (stopping.signal.aborted) return { kind: "stopped" };
        try {
          current = await start();
          restarted = true;
          log.info({ pid: current.pid }, "the embedded PostgreSQL runs again");
        } catch (error) {
          log.error({ error }, "the embedded PostgreSQL could not be restarted");
        }
      }
    }
  }
}
