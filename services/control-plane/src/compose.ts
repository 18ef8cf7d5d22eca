/**
 * A server in stages, started in order, stopped in reverse. With wire.ts the
 * only place that wires.
 *
 *   main.ts     entry            program.ts  the process: arguments, signals, exit codes
 *   wire.ts     slices to one another, and to one handler
 *   config.ts   settings                 log.ts     the log
 *   platform/   what every slice uses    others: one folder per slice
 */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type EncryptionKey, loadOrCreateKeyFile, writePrivateFile } from "@bowline/auth";
import { type DatabaseAddress, migrate, type OpenDatabase, openDatabase, runEmbeddedPostgres } from "@bowline/db";
import { newId, problem, type Stage, startStages, type StopAll, systemClock } from "@bowline/kernel";
import { noTraces, openTraces, type Traces, type TraceSettings } from "@bowline/traces";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import { bootstrap, type Bootstrapped } from "./identity/index.ts";
import { createCensus } from "./platform/census.ts";
import { createEvents } from "./platform/events.ts";
import { type Hints, openHints } from "./platform/hints.ts";
import { createMetrics } from "./platform/metrics.ts";
import { listen, type Port } from "./platform/port.ts";
import { hideRedisPassword, parseRedisUrl } from "./platform/redis/address.ts";
import { openTls, type ServerTls } from "./platform/tls.ts";
import { serverVersion } from "./version.ts";
import { wire, type Wired } from "./wire.ts";

/** A server that runs. */
export interface Server {
  url: string;
  adminTokenFile: string;
  /** Resolves when the server can't go on by itself, with why. */
  failed: Promise<string>;
  /** Before `stop`: answers "not ready" and lets agents go elsewhere. Waits no longer after `hurry` aborts. Never throws. */
  drain(hurry: AbortSignal): Promise<void>;
  stop: StopAll;
}

/** What a person sees of a start. */
export type StageReport = (stage: { name: string; detail: string; tookMs: number }) => void;

/** A replica that is alone is gone within 5 s (protocol.md); streams get this long to hear of it. */
const drainMs = 2_000;
const stopWithinMs = 5_000;
/** However short the lease: a process that is busy for a moment keeps its transactions. */
const leastIdleMs = 5_000;
/** A start waits this long for Redis, and goes on without it. */
const redisWithinMs = 1_000;
/** PostgreSQL writes its checkpoint before it ends. */
const databaseStopWithinMs = 15_000;

/** Starts everything. Throws what is wrong; then nothing is left running. */
export async function startServer(
  config: Config,
  log: Logger,
  report: StageReport,
  traceSettings?: TraceSettings,
): Promise<Server> {
  const clock = systemClock;
  let failedWith: (why: string) => void = () => undefined;
  const failed = new Promise<string>((resolve) => (failedWith = resolve));
  const adminTokenFile = join(config.dataDir, "admin-token");
  const serverFile = join(config.dataDir, "server.json");
  const replicaId = newId("replica");
  const metrics = createMetrics();

  let address: DatabaseAddress = config.databaseUrl;
  let traces: Traces = noTraces;
  let database: OpenDatabase;
  let encryption: EncryptionKey;
  let installation: Bootstrapped;
  let hints: Hints;
  let wired: Wired;
  let tls: ServerTls | undefined;
  let port: Port | undefined;

  const timed = (
    name: string,
    stopMs: number,
    start: () => Promise<{ detail: string; stop: () => Promise<void> }>,
  ): Stage => ({
    name,
    stopWithinMs: stopMs,
    async start() {
      const startedAt = clock.monotonicMs();
      const { detail, stop } = await start();
      report({ name, detail, tookMs: clock.monotonicMs() - startedAt });
      return stop;
    },
  });
  const nothing = async (): Promise<void> => undefined;
  /** The port, for what runs after the last stage only. */
  const listening = (): Port => {
    if (port === undefined) throw new Error("the port was asked for before it listens");
    return port;
  };

  const stages: Stage[] = [
    timed("folder", stopWithinMs, async () => {
      prepareFolder(config.dataDir);
      encryption = await loadOrCreateKeyFile(config.encryptionKeyFile || join(config.dataDir, "encryption-key"));
      if (config.tlsCert !== "") {
        const files = { cert: config.tlsCert, key: config.tlsKey, clientCa: config.tlsClientCa };
        tls = await openTls(files, {
          sleep: (ms, signal) => clock.sleep(ms, signal),
          log,
          reloaded: (outcome) => metrics.tlsReloaded(outcome),
        });
      }
      traces = await openTraces(traceSettings, { log, dropped: (spans) => metrics.dropped("spans", spans) });
      return { detail: config.dataDir, stop: () => traces.shutdown() };
    }),
    timed("database", databaseStopWithinMs, async () => {
      if (config.databaseUrl !== "") return { detail: "PostgreSQL, separate", stop: nothing };
      const embedded = await runEmbeddedPostgres({
        dataDir: join(config.dataDir, "postgres"),
        log,
        maxConnections: config.maxConnections + 10,
      });
      address = embedded.connection;
      void embedded.ended.then((end) => {
        if (end.kind === "failed") failedWith(end.message);
      });
      return {
        detail: `PostgreSQL ${embedded.version}, embedded${embedded.created ? ", new" : ""}`,
        stop: embedded.stop,
      };
    }),
    timed("schema", stopWithinMs, async () => {
      database = openDatabase({
        address,
        applicationName: `bowline ${replicaId}`,
        maxConnections: config.maxConnections,
        idleInTransactionMs: Math.max(config.leaseMs, leastIdleMs),
        onAcquired: (seconds) => metrics.acquired(seconds),
        // Not the error itself: the driver hangs its whole client on it.
        onConnectionLost: ({ message }) => log.warn({ detail: message }, "a connection to the database was lost"),
      });
      try {
        const { applied, current, newer } = await migrate(database.db);
        if (newer)
          log.warn({ schema: current }, "the schema is newer than this build: an upgrade is under way, or was");
        installation = await bootstrap(database.db, {
          events: createEvents(database.db, log),
          writeAdminToken: (token) => writePrivateFile(adminTokenFile, `${token}\n`),
        });
        return {
          detail:
            applied.length > 0 ? `migrated to ${current}` : `${current}, ${newer ? "of a newer build" : "up to date"}`,
          stop: database.end,
        };
      } catch (error) {
        await database.end();
        throw error;
      }
    }),
    timed(config.redisUrl === "" ? "hints" : "redis", stopWithinMs, async () => {
      hints = await openHints({
        redis: redisOf(config, replicaId),
        database: config.databaseUrl === "" ? undefined : config.databaseUrl,
        installationId: installation.installationId,
        replicaId,
        clock,
        log,
        metrics,
      });
      const stopping = new AbortController();
      const running = hints.run(stopping.signal);
      running.catch((error: unknown) => {
        log.error({ error }, "hints ended; the server stops");
        failedWith("a background loop ended");
      });
      const answered = await hints.answered(redisWithinMs);
      return {
        detail:
          config.redisUrl === "" ? "no Redis" : `${hideRedisPassword(config.redisUrl)}${answered ? "" : ", away"}`,
        stop: async () => {
          stopping.abort();
          await running.catch(() => undefined); // told above
        },
      };
    }),
    timed("engine", stopWithinMs, async () => {
      wired = wire(config, log, {
        database,
        encryption,
        installation,
        replicaId,
        metrics,
        hints,
        traces,
        publicUrl: () => config.publicUrl || listening().url,
        caFingerprint: () => tls?.material().caFingerprint,
        // Replicas on one machine reach one another where they listen; elsewhere nobody can know but who set it up.
        homeUrl: () => config.advertiseUrl || (/^(127\.|::1$|localhost$)/.test(config.host) ? listening().url : ""),
      });
      await wired.history.turn();
      await wired.sessions.prepare();
      const stopping = new AbortController();
      const loops = tls === undefined ? wired.loops : [...wired.loops, tls];
      const running = Promise.all(loops.map((part) => part.run(stopping.signal)));
      running.catch((error: unknown) => {
        log.error({ error }, "a background loop ended; the server stops");
        failedWith("a background loop ended");
      });
      return {
        detail: replicaId,
        stop: async () => {
          stopping.abort();
          await running.catch(() => undefined); // told above
        },
      };
    }),
    timed("server", stopWithinMs, async () => {
      const opened = await listen({
        host: config.host,
        port: config.port,
        handler: wired.handler,
        streams: wired.streams,
        log,
        tls,
      });
      metrics.watch({
        sessions: () => wired.sessions.measured().sessions,
        queues: () => ({
          ...wired.sessions.measured().queues,
          ...hints.waiting(),
          spans: traces.waiting(),
          events_remembered: wired.events.measured().remembered,
        }),
        pool: () => database.load(),
        connections: () => opened.connections(),
        watches: () => wired.events.measured().watches,
        leaseAge: () => wired.sessions.measured().leaseAgeSeconds,
        historyAge: () => wired.history.age(),
        census: createCensus(database.db),
        certificateEnds: () => tls?.material().validTo,
      });
      port = opened;
      const facts = { pid: process.pid, url: opened.url, version: serverVersion, startedAt: new Date().toISOString() };
      await writePrivateFile(serverFile, `${JSON.stringify(facts)}\n`);
      log.info({ url: opened.url, version: serverVersion, replicaId }, "listening");
      return {
        detail: `${opened.url}   REST, gRPC, Connect`,
        stop: async () => {
          wired.draining.abort(); // ends every stream that is open
          rmSync(serverFile, { force: true });
          await opened.close(drainMs);
        },
      };
    }),
  ];
  const stop = await startStages(stages);
  return { url: listening().url, adminTokenFile, failed, drain: (hurry) => wired.drain(hurry), stop };
}

/** Throws INVALID_ARGUMENT for a file that can't be read. */
function redisOf(config: Config, replicaId: string) {
  if (config.redisUrl === "") return undefined;
  const read = (path: string, what: string): string => {
    try {
      return readFileSync(path, "utf8");
    } catch (error) {
      throw problem(
        "INVALID_ARGUMENT",
        `The ${what} cannot be read: ${error instanceof Error ? error.message : String(error)}.`,
        { cause: error },
      );
    }
  };
  const { redisPasswordFile, redisCaFile } = config;
  return {
    address: parseRedisUrl(config.redisUrl),
    credentials: {
      password: redisPasswordFile === "" ? "" : read(redisPasswordFile, "--redis-password-file").trim(),
      ca: redisCaFile === "" ? undefined : read(redisCaFile, "--redis-ca-file"),
      name: `bowline-${replicaId}`,
    },
  };
}

function prepareFolder(dataDir: string): void {
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw problem(
      "INVALID_ARGUMENT",
      `The data directory ${dataDir} cannot be made: ${error instanceof Error ? error.message : String(error)}. Choose another with --data-dir.`,
      { cause: error },
    );
  }
}
