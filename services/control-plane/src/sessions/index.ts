/**
 * Agents' sessions: their streams in, commands out.
 *
 *   certificates.ts  client certificates of agents   examine.ts  a dial that opens nothing
 *   greet.ts    who dials                     agent-rpc.ts   their calls
 *   openings.ts, opening-rows.ts, ends.ts  sessions open and end, in sets    open.ts  they serve and move
 *   stream.ts   one stream, start to end      live.ts        the streams of this replica
 *   intake.ts   reports, batched              dispatcher.ts  claims and pushes
 *   fetch.ts    specs by command              signing-keys.ts  access tokens
 *   lease.ts    this replica's lease          upkeep.ts      silence, sweeps, lost replicas
 *   leaving.ts  drain, and the end of a life
 *   sync.ts, plain-syncs.ts  the end of a Sync storable.ts    what PostgreSQL can hold
 *   dials.ts    how many dials are taken      messages.ts    what one message does
 *   pace.ts     how much one agent says       misuse.ts      what none does by itself
 *   polls.ts    sessions without a stream     poll-rpc.ts, poll-fence.ts, mailbox.ts  their requests
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { AgentService, EnrollRequest, EnrollResponse, RotateKeyRequest } from "@bowline/contract/agent";
import { type EncryptionKey, readAssertionSubject } from "@bowline/auth";
import { type Clock, problem } from "@bowline/kernel";
import type { WireHandlers } from "@bowline/session";
import type { Logger } from "pino";
import type { AgentSignals, EnginePorts, Here } from "../commands/index.ts";
import { type CalledBy, type RequestFacts, requestKey } from "../platform/context.ts";
import type { QueueName } from "../platform/queues.ts";
import type { Db } from "../platform/transactions.ts";
import type { Presence } from "../platform/presence.ts";
import type { Way, Word, Words } from "../platform/words.ts";
import { createAgentRpc } from "./agent-rpc.ts";
import { createCertificateGuard } from "./certificates.ts";
import { createDials, type DialPorts } from "./dials.ts";
import { createDispatcher } from "./dispatcher.ts";
import { createEnds } from "./ends.ts";
import type { ExaminePorts } from "./examine.ts";
import { createFetchReader, type FetchPorts, type SessionClaims } from "./fetch.ts";
import { type Asserted, bearer, verifyDialler } from "./greet.ts";
import { createIntake } from "./intake.ts";
import { createLease, type LeaseSettings } from "./lease.ts";
import { drain, drainSpreadMs, moveOldSessions } from "./leaving.ts";
import { createLiveSessions, type LiveSessions } from "./live.ts";
import { createMisuse, type Misuse } from "./misuse.ts";
import { createOpenings } from "./openings.ts";
import { createPace } from "./pace.ts";
import { createGate } from "./poll-fence.ts";
import { registerPolling } from "./poll-rpc.ts";
import { createPlainSyncs } from "./plain-syncs.ts";
import { createPolls } from "./polls.ts";
import { createRouting } from "./routing.ts";
import { createAccessTokens, type SigningKeySettings } from "./signing-keys.ts";
import { endOrphans, endSuperseded, runUpkeep } from "./upkeep.ts";

export { createBatcher } from "../platform/batches.ts"; // for tests/simulation, which batches as intake.ts does
export { verifyDialler } from "./greet.ts";

/** When an agent that dials a replica which goes away tries again: by then a load balancer has seen it. */
const elsewhereMs = 500;

export interface SessionsPorts {
  db: Db;
  engine: () => EnginePorts;
  clock: Clock;
  encryption: EncryptionKey;
  installationId: string;
  /** See fetch.ts. */
  sealSecrets: FetchPorts["sealSecrets"];
  sealRegistries: FetchPorts["sealRegistries"];
  enrol(request: EnrollRequest, context: CalledBy): Promise<EnrollResponse>;
  examining: Pick<ExaminePorts, "examineToken" | "examineAgent">;
  /** Resolves with the thumbprint of the key that the agent has now. */
  rotateKey(
    claims: SessionClaims,
    installationId: string,
    request: RotateKeyRequest,
    context: CalledBy,
  ): Promise<string>;
  settings: LeaseSettings & {
    heartbeatIntervalMs: number;
    silenceLimitMs: number;
    accessTokenLifeMs: number;
    /** A session moves after this, ±10 %. */
    sessionLifeMs: number;
    /** Within what time agents leave a replica that goes away, at least. */
    drainSpreadMs: number;
  };
  signingKeys: SigningKeySettings;
  log: Logger;
  /** What replicas tell one another; sessions takes what is heard. */
  words: Words;
  /** Is told what this replica holds. */
  presence: Pick<Presence, "held" | "changed">;
  /** How many dials become sessions. */
  dials: Pick<DialPorts, "perSecond" | "refused">;
  /** Messages of one agent per second; 0: any number. */
  agentMessagesPerSecond: number;
  /** Is told of each message or request of an agent that was one too many. */
  refused(limit: "agent-messages" | "agent-requests"): void;
  /** True: no other server can hold this database, so sessions of a life before are ended at once. */
  alone: boolean;
}

export interface Sessions {
  register(router: ConnectRouter): void;
  /** AgentService for our own wire. */
  agentHandlers: WireHandlers<typeof AgentService>;
  signals: AgentSignals;
  /** For claims in the transactions of enqueues. */
  here: Here;
  /** An agent did what none does by itself: see misuse.ts. */
  misused: Misuse["note"];
  /** What metrics show. */
  measured(): Measured;
  /** The session that an agent's call belongs to, as its access token says. Throws what is wrong with it. */
  called(context: Pick<CalledBy, "requestHeader" | "values">): Promise<SessionClaims>;
  /** Asks an agent whose session is here to open a tunnel; false: it has none here. */
  askTunnel(agentId: string, tunnel: { tunnelId: string; purpose: string }): boolean;
  /** What another replica says about sessions of this one. */
  heard(word: Word, way: Way): void;
  /** Something may have been missed: looks at everything that this replica holds. */
  rescan(): void;
  /** Takes the lease. Before anything is served. */
  prepare(): Promise<void>;
  run(signal: AbortSignal): Promise<void>;
  /**
   * Takes no new session, tells every agent to connect elsewhere, spread out where there is an elsewhere, and ends
   * the streams that are left then. After `hurry` aborts it waits no longer. Never throws.
   */
  drain(hurry: AbortSignal): Promise<void>;
}

export interface Measured {
  sessions: { phase: string; transport: string; count: number }[];
  queues: Record<Exclude<QueueName, "words" | "presence" | "events_remembered" | "spans">, number>;
  /** Since the lease was renewed last. */
  leaseAgeSeconds: number;
}

export function createSessions(ports: SessionsPorts): Sessions {
  const live: LiveSessions = createLiveSessions((session, open) => ports.presence.changed(session, open));
  Object.assign(ports.presence.held, {
    all: () => live.all(),
    of: (agentId) => live.of(agentId),
    check: (agentIds) => endSuperseded(ports.engine(), live, agentIds),
  } satisfies Presence["held"]);
  const { words } = ports;
  const { replicaId, accessTokenLifeMs } = ports.settings;
  const dispatcher = createDispatcher({ engine: ports.engine, live, replicaId, hears: () => words.hears() });
  const routing = createRouting({ engine: ports.engine, live, dispatcher, words, replicaId });
  const dials = createDials({ ...ports.dials, clock: ports.clock });
  const tokens = createAccessTokens({ ...ports, lifeMs: accessTokenLifeMs });
  const lease = createLease(ports.db, ports.settings, ports);
  const misuse = createMisuse(ports.engine);
  const pace = createPace({
    perSecond: ports.agentMessagesPerSecond,
    refused(agentId) {
      ports.refused("agent-messages");
      misuse.note(agentId, "FLOODING");
    },
  });
  let leaving = false;
  let intake: ReturnType<typeof createIntake> | undefined;
  const certificates = createCertificateGuard({
    db: ports.db,
    events: () => ports.engine().events,
    clock: ports.clock,
  });
  const intakeOf = () => (intake ??= createIntake(ports.engine(), ports.clock));
  // REST and the other protocols register apart and serve the same sessions; the engine is there by then.
  let parts: ReturnType<typeof build> | undefined;
  const shared = () => (parts ??= build());
  const build = () => {
    const { heartbeatIntervalMs, silenceLimitMs } = ports.settings;
    const { engine, clock, db } = ports;
    const sets = { openings: createOpenings(engine), plainSyncs: createPlainSyncs(engine), ends: createEnds(engine) };
    const common = { engine, live, dispatcher, intake: intakeOf(), dials, ...sets, tokens, pace, clock, replicaId };
    const session = { ...common, heartbeatIntervalMs, silenceLimitMs };
    const polls = createPolls(session);
    const ask = createGate({ db, tokens, certificates, polls, pace, misuse, refused: (limit) => ports.refused(limit) });
    return { session, polls, polling: { ...session, ...fetching, polls, ask, certificates, dialled } };
  };
  const fetching: FetchPorts & { misuse: Misuse } = {
    read: createFetchReader(ports.db),
    ...{ db: ports.db, sealSecrets: ports.sealSecrets, sealRegistries: ports.sealRegistries, misuse },
    warn: (details, message) => ports.engine().log.warn(details, message),
  };
  type Called = Pick<CalledBy, "requestHeader" | "values">;
  const verified = (assertion: string, request: RequestFacts): Promise<Asserted> =>
    dials
      .working(() => verifyDialler(ports.db, ports.installationId, assertion))
      .catch((error: unknown) => {
        // Those that are a misuse are said only after the signature was found to be the agent's (U1).
        misuse.refused(readAssertionSubject(assertion) ?? "", error, request);
        throw error;
      });
  const dialled = async ({ requestHeader, values }: Called): Promise<Asserted> => {
    if (leaving) throw problem("REPLICA_DRAINING", undefined, { retryAfterMs: elsewhereMs });
    const asserted = await verified(bearer(requestHeader), values.get(requestKey));
    await dials.count(asserted.agentId);
    return asserted;
  };
  const called = async ({ requestHeader, values }: Called): Promise<SessionClaims> => {
    const claims = await tokens.verify(bearer(requestHeader));
    pace.count(claims.agentId);
    await certificates.check(claims.agentId, values.get(requestKey));
    return claims;
  };

  const agentRpc = createAgentRpc({
    ...{ clock: ports.clock, installationId: ports.installationId, examining: ports.examining },
    ...{ silenceLimitMs: ports.settings.silenceLimitMs, serverVersion: ports.settings.serverVersion },
    ...{ fetching, certificates, misuse, dialled, verified, called },
    session: () => shared().session,
    enrol: (request, context) => ports.enrol(request, context),
    rotateKey: (claims, installationId, request, by) => ports.rotateKey(claims, installationId, request, by),
  });

  return {
    signals: routing,
    here: dispatcher.here,
    agentHandlers: agentRpc.handlers,
    misused: misuse.note,
    called,
    askTunnel(agentId, tunnel) {
      const session = live.of(agentId);
      if (session?.phase !== "serving") return false; // its row may say so a moment earlier
      session.send({ message: { case: "openTunnel", value: tunnel } });
      return true;
    },
    heard: (word, way) => routing.heard(word, way),
    rescan: () => dispatcher.rescan(),
    measured() {
      const sessions = new Map<string, Measured["sessions"][number]>();
      let outbox = 0;
      for (const { phase, transport, queued } of live.all()) {
        const key = `${phase} ${transport}`;
        sessions.set(key, { phase, transport: transport.toLowerCase(), count: (sessions.get(key)?.count ?? 0) + 1 });
        outbox += queued;
      }
      return {
        sessions: [...sessions.values()],
        queues: {
          ...{ outbox, signals: routing.waiting(), openings: dials.waiting(), misuse: misuse.waiting() },
          ...intakeOf().waiting(),
        },
        leaseAgeSeconds: lease.ageMs() / 1000,
      };
    },
    register(router) {
      agentRpc.register(router);
      registerPolling(router, shared().polling);
    },
    async prepare() {
      await lease.take();
      if (ports.alone) await endOrphans(ports.engine(), ports.settings.replicaId);
    },
    async run(signal) {
      await Promise.all([
        dispatcher.run(signal),
        routing.run(signal),
        intakeOf().run(signal),
        runUpkeep(ports.engine(), ports.settings, { live, dispatcher, lease, clock: ports.clock }, signal),
        moveOldSessions({ live, clock: ports.clock }, ports.settings.sessionLifeMs, signal),
      ]);
    },
    async drain(hurry) {
      leaving = true;
      const others = ports.alone ? 0 : await lease.others();
      const spreadMs = drainSpreadMs({ others, sessions: live.count(), leastMs: ports.settings.drainSpreadMs });
      ports.log.info({ sessions: live.count(), others, spreadMs }, "draining");
      const recorded = () => Promise.all([live.recorded(), parts?.polls.settled()]);
      await drain({ live, clock: ports.clock, recorded }, spreadMs, hurry);
      await misuse.settled();
      await lease.giveBack().catch((error: unknown) => {
        ports.log.warn({ error }, "the lease could not be given back; it runs out");
      });
    },
  };
}
