/**
 * Every slice, wired to the others, and one handler in front of them. compose.ts
 * gives it a database and a port; a test of the whole API gives it a database.
 * Long because every slice's ports are filled here and nowhere else.
 */
import { type ConnectRouter, createContextValues, createRouterTransport, type Transport } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { readFileSync } from "node:fs";
import type { EncryptionKey } from "@bowline/auth";
import { services } from "@bowline/contract";
import { AgentService } from "@bowline/contract/agent";
import { ExecRequestSchema } from "@bowline/contract/instances";
import type { OpenDatabase } from "@bowline/db";
import { problem, systemClock } from "@bowline/kernel";
import { createRest } from "@bowline/rest";
import { createWire, hangUpKey, hangUpOf, maxStreamMessageBytes, maxUnaryMessageBytes } from "@bowline/session";
import type { Traces } from "@bowline/traces";
import { sql } from "kysely";
import type { Logger } from "pino";
import { createAgents } from "./agents/index.ts";
import { createAudit } from "./audit/index.ts";
import {
  clusterPolicy,
  createClusters,
  lockClusterForChange,
  lockClusterForPublish,
  type Resident,
} from "./clusters/index.ts";
import {
  agentGone,
  beginAfresh,
  defaultLimits,
  deletesSpecs,
  type EnginePorts,
  movesEnded,
  registerCommands,
  retireAgent,
  sessionEnded,
  settleForks,
  renewing,
} from "./commands/index.ts";
import type { Config } from "./config.ts";
import { readDeployment, registerDeployments } from "./deployments/index.ts";
import { type Bootstrapped, createIdentity, shutOut } from "./identity/index.ts";
import { dispatchHeld, registerInstallation } from "./installation/index.ts";
import { type InstancePorts, registerInstances } from "./instances/index.ts";
import { createAround } from "./platform/calls.ts";
import { clientAddresses } from "./platform/client-address.ts";
import { createCors, originsOf } from "./platform/cors.ts";
import { createEvents } from "./platform/events.ts";
import type { Hints } from "./platform/hints.ts";
import { createHistory, type History, type HistorySettings } from "./platform/history.ts";
import { createHttpHandler, createStreamHandler } from "./platform/http.ts";
import { interceptors } from "./platform/interceptors.ts";
import type { createMetrics } from "./platform/metrics.ts";
import { surrounded } from "./platform/own-wire.ts";
import type { StreamHandler } from "./platform/port.ts";
import { admitScrape } from "./platform/metrics-access.ts";
import { createRateLimits, type RateLimitSettings } from "./platform/rate-limits.ts";
import { openServices, registerHealth, registerReflection } from "./platform/reflection.ts";
import {
  createCatalogue,
  createPublishes,
  diffManifests,
  gatewayChanged,
  manifestOf,
  privateBackends,
  claimsMore,
  routeConflicts,
} from "./products/index.ts";
import { createRegistries } from "./registries/index.ts";
import { createSecrets } from "./secrets/index.ts";
import { createSessions, type Sessions } from "./sessions/index.ts";
import { createStacks, stackInstances } from "./stacks/index.ts";
import { createTunnels } from "./tunnels/index.ts";
import { serverVersion } from "./version.ts";

/** What slices stand on. */
export interface Foundations {
  database: OpenDatabase;
  encryption: EncryptionKey;
  installation: Bootstrapped;
  replicaId: string;
  metrics: ReturnType<typeof createMetrics>;
  hints: Hints;
  /** Unset: nothing is traced. */
  traces?: Traces;
  publicUrl: () => string;
  /** Of the CA that agents may pin; undefined: a public one, or none that the server knows. */
  caFingerprint?: () => string | undefined;
  /** Where other replicas reach this one; empty: nowhere. Unset: as the settings say. */
  homeUrl?: () => string;
}

export interface Wired {
  /** HTTP: REST, Connect, gRPC, the root paths. */
  handler: ReturnType<typeof createHttpHandler>;
  /** Agents' calls over HTTP/2, before they become requests. */
  streams: StreamHandler;
  /** The same services with the same interceptors, called in this process. */
  transport: Transport;
  sessions: Sessions;
  events: ReturnType<typeof createEvents>;
  history: History;
  /** Answers "not ready" from now on, and empties this replica (sessions/leaving.ts). */
  drain(hurry: AbortSignal): Promise<void>;
  /** Its abort ends watches and whatever else is open. */
  draining: AbortController;
  /** Run each until its signal aborts. */
  loops: { run(signal: AbortSignal): Promise<void> }[];
}

export function wire(
  config: Config,
  log: Logger,
  { database, encryption, installation, replicaId, metrics, hints, traces, publicUrl, ...given }: Foundations,
): Wired {
  const { db } = database;
  const { caFingerprint, homeUrl } = given;
  const events = createEvents(db, log);
  const draining = new AbortController();
  let leaving = false;
  // The engine and those who listen to it refer to one another; each reads the other when it runs.
  const engine = (): EnginePorts => enginePorts;
  const identity = createIdentity({
    ...{ db, events, serverVersion },
    degraded: () => (hints.degraded() ? ["redis"] : []),
  });
  const agents = createAgents({
    db,
    events,
    publicUrl,
    presence: hints.presence,
    agentGone: (work, agentId, how) => agentGone(engine(), work, agentId, how),
    agentRetired: (work, agentId) => retireAgent(engine(), work, agentId),
    agentAfresh: (work, agent) => beginAfresh(engine(), work, agent),
    sessionEnded: (work, agentId, epoch) => sessionEnded(engine(), work, agentId, epoch),
    settleForks: (work, forks, how) => settleForks(engine(), work, forks, how),
    closeSession: (agentId, reason) => sessions.signals.close(agentId, reason),
    agentEnrolled: async (work, agent) => work.after(() => placeable(agent.id)),
    openTunnel: (wish, signal) => tunnels.open(wish, signal),
  });
  const residents: Resident[] = [];
  const clusters = createClusters({
    db,
    events,
    publicUrl,
    serverVersion,
    ...(caFingerprint === undefined ? {} : { caFingerprint }),
    log,
    residents,
    countAgents: agents.countByCluster,
    rekeyable: agents.rekeyable,
  });
  const catalogue = createCatalogue({
    db,
    events,
    gatewayChanged: (work, gatewayId) => gatewayChanged(engine(), work, gatewayId, defaultLimits),
  });
  const secrets = createSecrets({ db, events, encryption });
  const registries = createRegistries({ db, events, encryption });
  const publishes = createPublishes({
    engine,
    secretVersions: secrets.resolveHeaders,
    lockCluster: lockClusterForPublish,
    revision: catalogue.revisionForPublish,
    gateway: catalogue.gatewayForPublish,
    privateBackends,
    conflicts: routeConflicts,
    claimsMore,
    diff: diffManifests,
    current: async (work, productId) =>
      manifestOf(
        work.tx,
        await work.tx.selectFrom("products").selectAll().where("id", "=", productId).executeTakeFirstOrThrow(),
      ),
  });
  const stacks = createStacks({
    engine,
    lockCluster: lockClusterForPublish,
    lockClusterForChange,
    clusterPolicy,
    secretVersions: secrets.resolve,
    keepSecret: secrets.keep,
    givenVersions: secrets.given,
    plannedVersions: secrets.planned,
    dropSecrets: secrets.dropGiven,
    keyedHash: secrets.keyedHash,
  });
  const placeable = (agentId: string): void => {
    publishes.agentChanged(agentId);
    stacks.agentChanged();
  };
  residents.push(publishes.resident, stacks.resident, agents.resident);
  const sessions: Sessions = createSessions({
    db,
    engine,
    clock: systemClock,
    encryption,
    installationId: installation.installationId,
    enrol: agents.enrol,
    examining: agents,
    rotateKey: agents.rotateKey,
    sealSecrets: (versions, key) => secrets.seal(versions, key),
    sealRegistries: (organisationId, hosts, key) => registries.seal(organisationId, hosts, key),
    settings: {
      replicaId,
      address: "",
      serverVersion,
      heartbeatIntervalMs: config.heartbeatIntervalMs,
      silenceLimitMs: config.silenceLimitMs,
      accessTokenLifeMs: config.accessTokenLifeMs,
      leaseMs: config.leaseMs,
      leaseGraceMs: config.leaseGraceMs,
      sessionLifeMs: config.sessionLifeMs,
      drainSpreadMs: config.drainSpreadMs,
    },
    signingKeys: { lifeMs: config.signingKeyLifeMs },
    log,
    dials: { perSecond: config.dialsPerSecond, refused: (limit) => metrics.refused(limit) },
    agentMessagesPerSecond: config.agentMessagesPerSecond,
    refused: (limit) => metrics.refused(limit),
    alone: config.databaseUrl === "",
    words: hints.words,
    presence: hints.presence,
  });
  hints.on.word = (word, way) => {
    if (word.placed === true) events.look();
    if (word.tunnels !== undefined) tunnels.heard(word.tunnels);
    sessions.heard(word, way);
  };
  hints.on.gap = () => {
    events.look();
    sessions.rescan();
  };
  events.onPlaced = () => hints.words.placed();
  const tunnels = createTunnels({
    ...{ db, encryption, clock: systemClock, log, words: hints.words, replicaId },
    homeUrl: homeUrl ?? (() => config.advertiseUrl),
    trust: () => (config.tlsCert === "" ? undefined : readFileSync(config.tlsCert, "utf8")),
    ask: (agentId, tunnel) => sessions.askTunnel(agentId, tunnel),
    called: (context) => sessions.called(context),
    shutOut: (principalIds) => shutOut(db, principalIds),
  });
  const instances: InstancePorts = {
    ...{ db, clock: systemClock, events: () => events, tunnels },
    instancesOfStack: (principal, stack) => stackInstances(db, principal, stack),
    async instancesOfDeployment(principal, id) {
      const found = await readDeployment(db, principal, id);
      if (found === undefined) throw problem("NOT_FOUND", `There is no deployment ${id}.`);
      const { agentId, agent, organisationId } = found;
      return found.instances.map(({ workload, index, phase }) => {
        return { agentId, agent, deploymentId: id, organisationId, workload, service: workload, index, phase };
      });
    },
    check: (message) => around.check(ExecRequestSchema, message),
  };
  const enginePorts: EnginePorts = {
    db,
    events,
    owners: new Map(Object.entries({ ...publishes.owners, ...stacks.owners })),
    signals: sessions.signals,
    here: sessions.here,
    agentChanged: async (work, agentId) => work.after(() => placeable(agentId)),
    foreignCommand: (agentId, about) => sessions.misused(agentId, "FOREIGN_COMMAND", { about }),
    random: Math.random,
    metrics,
    traces,
    log,
  };
  const audit = createAudit({ db, events });
  const history = createHistory({
    db,
    settings: historySettings(config),
    steps: [movesEnded, deletesSpecs].map((step) => step(historySettings(config).commandsMs)),
    log,
    did: (deed, count) => metrics.history(deed, count),
  });
  const ready = async (): Promise<boolean> => {
    if (leaving) return false;
    return sql`SELECT 1`.execute(db).then(
      () => true,
      () => false, // the answer is what it says: not ready
    );
  };

  const routes = (router: ConnectRouter): void => {
    for (const slice of [
      identity,
      clusters,
      agents,
      catalogue,
      secrets,
      registries,
      publishes,
      stacks,
      sessions,
      tunnels,
      audit,
    ])
      slice.register(router);
    registerCommands(router, engine());
    registerInstances(router, instances);
    registerDeployments(router, {
      db,
      events,
      ...renewing(engine()),
    });
    registerInstallation(router, {
      ...{ db, events },
      dispatchResumed: () => sessions.rescan(),
    });
    registerReflection(router);
    registerHealth(router, ready);
  };
  const rateLimits: RateLimitSettings = {
    principal: config.rateLimitPrincipal,
    address: config.rateLimitAddress,
    refused: (limit) => metrics.refused(limit),
  };
  const around = createAround({
    authenticate: identity.authenticate,
    openServices,
    log,
    observe: (call) => metrics.observe(call),
    rateLimits,
    traces,
    dispatchDegraded: () => hints.degraded(),
  });
  const scrapes = createRateLimits(rateLimits);
  const transport = createRouterTransport(routes, { router: { interceptors: interceptors(around) } });
  const rest = createRest({
    services: [...services],
    transport,
    info: { title: "Bowline", version: serverVersion },
    draining: draining.signal,
    log,
  });
  const connect = connectNodeAdapter({
    routes,
    interceptors: interceptors(around),
    readMaxBytes: maxUnaryMessageBytes,
    shutdownSignal: draining.signal,
    contextValues: (request) => createContextValues().set(hangUpKey, hangUpOf(request)),
  });
  const clientAddress = clientAddresses(config.trustedProxies);
  const streams = createStreamHandler({
    clientAddress,
    wire: createWire(AgentService, surrounded(AgentService, sessions.agentHandlers, around), {
      limitBytes: maxStreamMessageBytes,
      draining: draining.signal,
    }),
  });
  const handler = createHttpHandler({
    clientAddress,
    cors: createCors(originsOf(config.corsOrigins)),
    rest,
    connect,
    version: serverVersion,
    ready: async (): Promise<{ ready: boolean; checks: Record<string, string> }> => {
      if (leaving) return { ready: false, checks: { replica: "draining" } };
      const database = (await ready()) ? "ok" : "no answer";
      // Without Redis everything works, slower: no reason to send callers elsewhere.
      const redis = hints.degraded() ? "degraded" : "ok";
      const held = database === "ok" ? await dispatchHeld(db).catch(() => undefined) : undefined; // the next look tells
      return {
        ready: database === "ok",
        checks: {
          database,
          ...(hints.redisIsSet ? { redis } : {}),
          ...(held === undefined
            ? {}
            : { dispatch: `held since the restore at ${held.toISOString()}; to be confirmed` }),
        },
      };
    },
    metrics: async (scrape) => {
      await admitScrape({ open: config.openMetrics, authenticate: identity.authenticate, limits: scrapes }, scrape);
      return metrics.read();
    },
  });
  const drain = (hurry: AbortSignal): Promise<void> => {
    leaving = true;
    return sessions.drain(hurry);
  };
  const loops = [events, sessions, tunnels, publishes, stacks, clusters, history];
  return { handler, streams, transport, sessions, drain, events, history, draining, loops };
}

function historySettings(config: Config): HistorySettings {
  return {
    everyMs: config.historyEveryMs,
    eventsMs: config.eventsRetentionHours * 3_600_000,
    commandsMs: config.commandsRetentionDays * 86_400_000,
    auditMs: config.auditRetentionDays * 86_400_000,
  };
}
