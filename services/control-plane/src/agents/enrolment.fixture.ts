/** Identity, clusters and agents over a real database, for the tests of this folder; and an agent that enrols. */
import type { ConnectRouter } from "@connectrpc/connect";
import { generateKey, type KeyPair, signEnrolmentProof } from "@bowline/auth";
import { AgentService, type EnrollResponse } from "@bowline/contract/agent";
import { AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { OrganisationService, ServiceAccountService } from "@bowline/contract/identity";
import type { Role } from "@bowline/contract/options";
import type { Database } from "@bowline/db";
import { problem } from "@bowline/kernel";
import { type Kysely, sql } from "kysely";
import { createAudit } from "../audit/index.ts";
import { createClusters } from "../clusters/index.ts";
import { agentGone, beginAfresh, type EnginePorts, retireAgent, sessionEnded, settleForks } from "../commands/index.ts";
import { bootstrap, createIdentity } from "../identity/index.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess } from "../platform/in-process.ts";
import { type AgentPorts, createAgents, type EnrolledAgent } from "./index.ts";

export const publicUrl = "https://bowline.example.com";

/** How an enrolment differs from a good one. */
export interface EnrolOptions {
  key?: KeyPair;
  name?: string;
  hostname?: string;
  runtime?: string;
  labels?: Record<string, string>;
  /** Of the proof. */
  audience?: string;
  now?: number;
  tokenId?: string;
  runtimeIdentity?: string;
  proofBy?: KeyPair;
}

/** `openTunnel` unset: no agent dials. */
export async function startSlices(db: Kysely<Database>, more: Partial<Pick<AgentPorts, "openTunnel">> = {}) {
  const log = { error: () => {}, warn: () => {} };
  const events = createEvents(db, log);
  const enrolled: EnrolledAgent[] = [];
  const closed: string[] = [];
  const heard = new Map<string, Date>();
  const engine: EnginePorts = {
    db,
    events,
    owners: new Map(),
    signals: { wake: () => {}, cancel: () => {}, pushAgain: () => {}, close: (agentId) => void closed.push(agentId) },
    random: () => 0.5,
    log,
  };
  const identity = createIdentity({ db, events, serverVersion: "0.1.0" });
  const agents = createAgents({
    db,
    events,
    publicUrl: () => publicUrl,
    presence: { lastHeard: (agentId) => heard.get(agentId) },
    sessionEnded: (work, agentId, epoch) => sessionEnded(engine, work, agentId, epoch),
    agentGone: (work, agentId, how) => agentGone(engine, work, agentId, how),
    agentRetired: (work, agentId) => retireAgent(engine, work, agentId),
    agentAfresh: (work, agent) => beginAfresh(engine, work, agent),
    settleForks: (work, forks, how) => settleForks(engine, work, forks, how),
    closeSession: (agentId, reason) => engine.signals.close(agentId, reason),
    agentEnrolled: async (_, agent) => void enrolled.push(agent),
    openTunnel: more.openTunnel ?? (() => Promise.reject(problem("TUNNEL_TIMEOUT"))),
  });
  const clusters = createClusters({
    db,
    events,
    publicUrl: () => publicUrl,
    serverVersion: "0.1.0",
    countAgents: agents.countByCluster,
    rekeyable: agents.rekeyable,
    residents: [agents.resident],
    log,
  });
  const audit = createAudit({ db, events });
  let admin = "";
  await bootstrap(db, { events, writeAdminToken: async (token) => void (admin = token) });
  const api = inProcess((router: ConnectRouter) => {
    for (const slice of [identity, clusters, agents, audit]) slice.register(router);
    router.service(AgentService, {
      enroll: agents.enrol,
      // As sessions/ does, with the claims of an access token that it has verified.
      rotateKey: async (request, context) => {
        const claims = JSON.parse(context.requestHeader.get("claims") ?? "{}") as Parameters<
          typeof agents.rotateKey
        >[0];
        return { thumbprint: await agents.rotateKey(claims, "inst_test", request, context) };
      },
    });
  }, identity);

  const operator = {
    agents: api.as(AgentsService, admin),
    audit: api.as(AuditService, admin),
    clusters: api.as(ClusterService, admin),
    organisations: api.as(OrganisationService, admin),
    tokens: api.as(RegistrationTokenService, admin),
    accounts: api.as(ServiceAccountService, admin),
  };
  const cluster = (name: string, more: object = {}) =>
    operator.clusters.createCluster({ cluster: { name, runtime: "docker", ...more } });
  const token = async (clusterId: string, more: object = {}) =>
    (await operator.tokens.createRegistrationToken({ clusterId, ...more })).token;
  const account = async (name: string, role: Role, organisationId = "") =>
    (await operator.accounts.createServiceAccount({ name, role, organisationId })).token;

  async function enrol(text: string, options: EnrolOptions = {}): Promise<EnrollResponse> {
    const key = options.key ?? (await generateKey("Ed25519"));
    const sealing = await generateKey("X25519");
    const runtimeIdentity = "engine-1";
    const proof = await signEnrolmentProof(options.proofBy ?? key, {
      tokenId: options.tokenId ?? text.split("_")[1] ?? "",
      audience: options.audience ?? publicUrl,
      runtimeIdentity: options.runtimeIdentity ?? runtimeIdentity,
      now: options.now ?? Date.now(),
    });
    return api.as(AgentService).enroll({
      token: text,
      signingKey: JSON.stringify(key.publicJwk),
      sealingKey: JSON.stringify(sealing.publicJwk),
      proof,
      name: options.name ?? "",
      hostname: options.hostname ?? "press-1",
      runtime: options.runtime ?? "docker",
      labels: options.labels ?? {},
      runtimeIdentity,
      agentVersion: "0.1.0",
    });
  }

  /** A session's row, as sessions/ would open it. */
  async function session(agentId: string, more: { state?: string; openedSecondsAgo?: number; reason?: string } = {}) {
    const ended = more.state === "ENDED";
    await db
      .insertInto("sessions")
      .values({
        agent_id: agentId,
        id: "session_1",
        epoch: 1,
        replica_id: "replica_1",
        state: more.state ?? "SERVING",
        opened_at: sql<Date>`now() - make_interval(secs => ${more.openedSecondsAgo ?? 0})`,
        ended_at: ended ? sql<Date>`now()` : null,
        end_reason: more.reason ?? "",
      })
      .execute();
  }

  return {
    db,
    api,
    events,
    engine,
    agents,
    clusters,
    operator,
    cluster,
    token,
    account,
    enrol,
    session,
    enrolled,
    closed,
    heard,
  };
}

export type Slices = Awaited<ReturnType<typeof startSlices>>;
