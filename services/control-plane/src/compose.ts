/**
 * The only place that wires: stages in order, stopped in reverse.
 *
 *   main.ts     the process: arguments, signals, exit codes
 *   config.ts   settings                 log.ts     the log
 *   platform/   what every slice uses    others: one folder per slice
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type ConnectRouter, createContextValues, createRouterTransport } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type EncryptionKey, loadOrCreateKeyFile, makePrivateFolder, writePrivateFile } from "@bowline/auth";
import { services } from "@bowline/contract";
import { type DatabaseAddress, migrate, type OpenDatabase, openDatabase, runEmbeddedPostgres } from "@bowline/db";
import { newId, problem, type Stage, startStages, type StopAll, systemClock } from "@bowline/kernel";
import { createRest } from "@bowline/rest";
import { hangUpKey, hangUpOf, maxUnaryMessageBytes } from "@bowline/session";
import { sql } from "kysely";
import type { Logger } from "pino";
import { createAgents } from "./agents/index.ts";
import { createAudit } from "./audit/index.ts";
import { createClusters, lockClusterForPublish, type Resident } from "./clusters/index.ts";
import { again, agentGone, defaultLimits, type EnginePorts, registerCommands, sessionEnded } from "./commands/index.ts";
import type { Config } from "./config.ts";
import { registerDeployments } from "./deployments/index.ts";
import { bootstrap, type Bootstrapped, createIdentity } from "./identity/index.ts";
import { createEvents } from "./platform/events.ts";
import { createHttpHandler } from "./platform/http.ts";
import { interceptors } from "./platform/interceptors.ts";
import { createMetrics } from "./platform/metrics.ts";
import { listen, type Port } from "./platform/port.ts";
import { openServices, registerHealth, registerReflection } from "./platform/reflection.ts";
import {
  createCatalogue,
  createPublishes,
  diffManifests,
  gatewayChanged,
  manifestOf,
  privateBackends,
  routeConflicts,
} from "./products/index.ts";
import { createSessions, type Sessions } from "./sessions/index.ts";
import { serverVersion } from "./version.ts";

/** A server that runs. */
export interface Server {
  url: string;
  adminTokenFile: string;
  /** Resolves when the server can't go on by itself, with why. */
  failed: Promise<string>;
  stop: StopAll;
}

/** What a person sees of a start. */
export type StageReport = (stage: { name: string; detail: string; tookMs: number }) => void;

/** A replica that is alone is gone within 5 s (protocol.md); streams get this long to hear of it. */
const drainMs = 2_000;
const stopWithinMs = 5_000;
/** PostgreSQL writes its checkpoint before it ends. */
const databaseStopWithinMs = 15_000;

/** Starts everything. Throws what is wrong; then nothing is left running. */
export async function startServer(config: Config, log: Logger, report: StageReport): Promise<Server> {
  const clock = systemClock;
  let failedWith: (why: string) => void = () => undefined;
  const failed = new Promise<string>((resolve) => (failedWith = resolve));
  const adminTokenFile = join(config.dataDir, "admin-token");
  const serverFile = join(config.dataDir, "server.json");
  const replicaId = newId("replica");
  const metrics = createMetrics();

  let address: DatabaseAddress = config.databaseUrl;
  let database: OpenDatabase;
  let encryption: EncryptionKey;
  let installation: Bootstrapped;
  let wired: ReturnType<typeof wire>;
  let port: Port;

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

  const stages: Stage[] = [
    timed("folder", stopWithinMs, async () => {
      await prepareFolder(config.dataDir);
      encryption = await loadOrCreateKeyFile(config.encryptionKeyFile || join(config.dataDir, "encryption-key"));
      return { detail: config.dataDir, stop: nothing };
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
        // Not the error itself: the driver hangs its whole client on it.
        onConnectionLost: ({ message }) => log.warn({ detail: message }, "a connection to the database was lost"),
      });
      try {
        const { applied, current } = await migrate(database.db);
        installation = await bootstrap(database.db, {
          events: createEvents(database.db, log),
          writeAdminToken: (token) => writePrivateFile(adminTokenFile, `${token}\n`),
        });
        return {
          detail: applied.length === 0 ? `${current}, up to date` : `migrated to ${current}`,
          stop: database.end,
        };
      } catch (error) {
        await database.end();
        throw error;
      }
    }),
    timed("engine", stopWithinMs, async () => {
      wired = wire(config, log, {
        database,
        encryption,
        installation,
        replicaId,
        metrics,
        publicUrl: () => config.publicUrl || port.url,
      });
      await wired.sessions.prepare();
      const stopping = new AbortController();
      const running = Promise.all(wired.loops.map((part) => part.run(stopping.signal)));
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
      port = await listen({ host: config.host, port: config.port, handler: wired.handler, log });
      metrics.watch({
        sessions: () => wired.sessions.counts(),
        pool: () => database.load(),
        connections: () => port.connections(),
        commandsByState: async () =>
          Object.fromEntries(
            (
              await sql<{ state: string; count: number }>`SELECT state, count(*)::int AS count FROM command_states
              WHERE state IN ('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT') GROUP BY state`.execute(
                database.db,
              )
            ).rows.map(({ state, count }) => [state, count]),
          ),
      });
      const facts = { pid: process.pid, url: port.url, version: serverVersion, startedAt: new Date().toISOString() };
      await writePrivateFile(serverFile, `${JSON.stringify(facts)}\n`);
      log.info({ url: port.url, version: serverVersion, replicaId }, "listening");
      return {
        detail: `${port.url}   REST, gRPC, Connect`,
        stop: async () => {
          // First: the abort ends every stream that is open, and Drain would not go out any more.
          await wired.sessions.drain(0);
          wired.draining.abort();
          rmSync(serverFile, { force: true });
          await port.close(drainMs);
        },
      };
    }),
  ];
  const stop = await startStages(stages);
  // @ts-expect-error assigned by the last stage, which has started
  return { url: port.url, adminTokenFile, failed, stop };
}

async function prepareFolder(dataDir: string): Promise<void> {
  try {
    await makePrivateFolder(dataDir);
  } catch (error) {
    throw problem(
      "INVALID_ARGUMENT",
      `The data directory ${dataDir} cannot be made: ${error instanceof Error ? error.message : String(error)}. Choose another with --data-dir.`,
      { cause: error },
    );
  }
}

interface Foundations {
  database: OpenDatabase;
  encryption: EncryptionKey;
  installation: Bootstrapped;
  replicaId: string;
  metrics: ReturnType<typeof createMetrics>;
  publicUrl: () => string;
}

/** Every slice, and one handler in front of them. */
function wire(
  config: Config,
  log: Logger,
  { database, encryption, installation, replicaId, metrics, publicUrl }: Foundations,
) {
  const { db } = database;
  const events = createEvents(db, log);
  const draining = new AbortController();
  // The engine and those who listen to it refer to one another; each reads the other when it runs.
  const engine = (): EnginePorts => enginePorts;
  const identity = createIdentity({ db, events, serverVersion });
  const agents = createAgents({
    db,
    events,
    publicUrl,
    presence: { lastHeard: (agentId: string) => sessions.lastHeard(agentId) },
    agentGone: (work, agentId, how) => agentGone(engine(), work, agentId, how),
    sessionEnded: (work, agentId, epoch) => sessionEnded(engine(), work, agentId, epoch),
    closeSession: (agentId, reason) => sessions.signals.close(agentId, reason),
    agentEnrolled: async (work, agent) => work.after(() => publishes.agentChanged(agent.id)),
  });
  const residents: Resident[] = [];
  const clusters = createClusters({
    db,
    events,
    publicUrl,
    log,
    residents,
    countAgents: agents.countByCluster,
  });
  const catalogue = createCatalogue({
    db,
    events,
    gatewayChanged: (work, gatewayId) => gatewayChanged(engine(), work, gatewayId, defaultLimits),
  });
  const publishes = createPublishes({
    engine,
    lockCluster: lockClusterForPublish,
    revision: catalogue.revisionForPublish,
    gateway: catalogue.gatewayForPublish,
    privateBackends,
    conflicts: routeConflicts,
    diff: diffManifests,
    current: async (work, productId) =>
      manifestOf(
        work.tx,
        await work.tx.selectFrom("products").selectAll().where("id", "=", productId).executeTakeFirstOrThrow(),
      ),
  });
  residents.push(publishes.resident, agents.resident);
  const sessions: Sessions = createSessions({
    db,
    engine,
    clock: systemClock,
    encryption,
    installationId: installation.installationId,
    enrol: agents.enrol,
    settings: {
      replicaId,
      address: "",
      serverVersion,
      heartbeatIntervalMs: config.heartbeatIntervalMs,
      silenceLimitMs: config.silenceLimitMs,
      leaseMs: config.leaseMs,
      leaseGraceMs: config.leaseGraceMs,
    },
    alone: config.databaseUrl === "",
  });
  const enginePorts: EnginePorts = {
    db,
    events,
    owners: new Map(Object.entries(publishes.owners)),
    signals: sessions.signals,
    agentChanged: async (work, agentId) => work.after(() => publishes.agentChanged(agentId)),
    random: Math.random,
    log,
  };
  const audit = createAudit({ db, events });
  const ready = async (): Promise<boolean> => {
    if (draining.signal.aborted) return false;
    return sql`SELECT 1`.execute(db).then(
      () => true,
      () => false, // the answer is what it says: not ready
    );
  };

  const routes = (router: ConnectRouter): void => {
    for (const slice of [identity, clusters, agents, catalogue, publishes, sessions, audit]) slice.register(router);
    registerCommands(router, engine());
    registerDeployments(router, {
      db,
      events,
      again: async (work, id, createdBy) => void (await again(engine(), work, id, { createdBy })),
    });
    registerReflection(router);
    registerHealth(router, ready);
  };
  const around = interceptors({
    authenticate: identity.authenticate,
    openServices,
    log,
    observe: (call) => metrics.observe(call),
  });
  const rest = createRest({
    services: [...services],
    transport: createRouterTransport(routes, { router: { interceptors: around } }),
    info: { title: "Bowline", version: serverVersion },
    draining: draining.signal,
    log,
  });
  const connect = connectNodeAdapter({
    routes,
    interceptors: around,
    readMaxBytes: maxUnaryMessageBytes,
    shutdownSignal: draining.signal,
    contextValues: (request) => createContextValues().set(hangUpKey, hangUpOf(request)),
  });
  const handler = createHttpHandler({
    rest,
    connect,
    version: serverVersion,
    ready: async () => {
      const database = (await ready()) ? "ok" : "no answer";
      return { ready: database === "ok", checks: { database } };
    },
    metrics: () => metrics.read(),
  });
  return { handler, sessions, draining, loops: [events, sessions, publishes, clusters] };
}
