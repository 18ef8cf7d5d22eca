/**
 * Publishing over a real database, for the tests of this folder: the slices
 * behind their interceptors, agents as rows, and the engine's own claims,
 * receipts and results in their name.
 */
import type { DescService } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { RoleName } from "@bowline/contract";
import {
  CommandReceipt_Disposition,
  CommandReceiptSchema,
  DeployResult_Outcome,
  DeployResultSchema,
} from "@bowline/contract/agent";
import { ClusterService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { type Deployment, DeploymentSchema, DeploymentService, PathMatch_Type } from "@bowline/contract/deployments";
import {
  type ApiServiceManifestSchema,
  type ProductManifestSchema,
  ProductPublishService,
  ProductService,
} from "@bowline/contract/products";
import type { Database } from "@bowline/db";
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { newId } from "@bowline/kernel";
import type { Kysely } from "kysely";
import { createAgents } from "../agents/index.ts";
import { createClusters, lockClusterForPublish, type Resident } from "../clusters/index.ts";
import {
  agentGone,
  beginAfresh,
  claim,
  defaultLimits,
  type EnginePorts,
  type PushedCommand,
  recordReports,
  registerCommands,
  retireAgent,
  sessionEnded,
  settleForks,
  renewing,
} from "../commands/index.ts";
import { registerDeployments } from "../deployments/index.ts";
import type { Principal } from "../platform/context.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess } from "../platform/in-process.ts";
import { transact } from "../platform/transactions.ts";
import {
  createCatalogue,
  createPublishes,
  diffManifests,
  gatewayChanged,
  manifestOf,
  privateBackends,
  claimsMore,
  routeConflicts,
} from "./index.ts";
import { placeEverywhere } from "./placing.ts";
import type { PublishRpcPorts } from "./publish-rpc.ts";

type Manifest = MessageInitShape<typeof ProductManifestSchema>;

/** A product with one API service of its own name; each path is a route to the same backend. */
export function manifest(
  name: string,
  paths: readonly string[] = [`/${name}`],
  url = "https://upstream.example",
): { name: string; apiServices: MessageInitShape<typeof ApiServiceManifestSchema>[] } {
  return {
    name,
    apiServices: [
      {
        name,
        routes: paths.map((value, index) => ({
          name: `r${index}`,
          matches: [{ path: { type: PathMatch_Type.PREFIX, value } }],
          backends: [{ backend: "up" }],
        })),
        backends: [{ name: "up", url }],
      },
    ],
  };
}

export interface TestAgent {
  id: string;
  /** What it gets now: claimed, not yet received. */
  claim(): Promise<PushedCommand[]>;
  receive(command: PushedCommand): Promise<void>;
  succeed(command: PushedCommand): Promise<void>;
  fail(command: PushedCommand, reason: string): Promise<void>;
  /** Takes and carries out everything until nothing is left. Returns what that was: the kinds, in order. */
  workOff(): Promise<string[]>;
  /** The spec of the generation that a command names. */
  spec(command: Pick<PushedCommand, "deploymentId" | "generation">): Promise<Deployment>;
}

export async function startPublishing(db: Kysely<Database>) {
  const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
  const events = createEvents(db, log);
  const engine = (): EnginePorts => enginePorts;
  const organisations = new Map<string, string>();
  for (const name of ["alpha", "beta"]) {
    const id = newId("org");
    organisations.set(name, id);
    await db.insertInto("organisations").values({ id, name }).execute();
  }
  const residents: Resident[] = [];
  const agents = createAgents({
    db,
    events,
    publicUrl: () => "https://bowline.example",
    presence: { lastHeard: () => undefined },
    sessionEnded: (work, agentId, epoch) => sessionEnded(engine(), work, agentId, epoch),
    agentGone: (work, agentId, how) => agentGone(engine(), work, agentId, how),
    agentRetired: (work, agentId) => retireAgent(engine(), work, agentId),
    agentAfresh: (work, agent) => beginAfresh(engine(), work, agent),
    settleForks: (work, forks, how) => settleForks(engine(), work, forks, how),
    closeSession: () => undefined,
    agentEnrolled: async () => undefined,
    openTunnel: () => Promise.reject(new Error("no tunnel is opened here")),
  });
  const clusters = createClusters({
    db,
    events,
    publicUrl: () => "https://bowline.example",
    serverVersion: "0.1.0",
    countAgents: agents.countByCluster,
    rekeyable: agents.rekeyable,
    residents,
    log,
  });
  const catalogue = createCatalogue({
    db,
    events,
    gatewayChanged: (work, gatewayId) => gatewayChanged(engine(), work, gatewayId, defaultLimits),
  });
  const ports: PublishRpcPorts = {
    engine,
    secretVersions: async () => ({}),
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
  };
  const publishes = createPublishes(ports);
  residents.push(publishes.resident, agents.resident);
  const enginePorts: EnginePorts = {
    db,
    events,
    owners: new Map(Object.entries(publishes.owners)),
    signals: { wake: () => undefined, cancel: () => undefined, pushAgain: () => undefined, close: () => undefined },
    random: () => 0,
    log,
  };
  const api = inProcess(
    (router) => {
      for (const slice of [clusters, agents, catalogue, publishes]) slice.register(router);
      registerCommands(router, enginePorts);
      registerDeployments(router, {
        db,
        events,
        ...renewing(enginePorts),
      });
    },
    { authenticate: async (headers) => principalOf(organisations, headers.get("authorization") ?? "") },
  );
  /** A client for `alpha` (a provider), `beta` (one of another organisation), `alpha/viewer`, `alpha/operator`. */
  const as = <Service extends DescService>(service: Service, who: string): Client<Service> => api.as(service, who);
  const alpha = as(ProductPublishService, "alpha");
  const operator = as(ClusterService, "alpha/operator");
  const cluster = async (name: string, more: object = {}, grantedTo = ["*"]) => {
    const made = await operator.createCluster({ cluster: { name, runtime: "local", ...more } });
    for (const organisationId of grantedTo) await operator.grantCluster({ id: made.id, organisationId });
    return made.id;
  };
  return {
    db,
    events,
    ports,
    publishes,
    organisations,
    as,
    alpha,
    operator,
    commands: as(CommandService, "alpha/operator"),
    deployments: as(DeploymentService, "alpha/operator"),
    cluster,
    apply: (content: Manifest, who = "alpha") => as(ProductService, who).applyProduct({ manifest: content }),
    agent: (clusterId: string, more: AgentFields = {}) => agentOf(db, enginePorts, clusterId, more),
    placeEverywhere: () => placeEverywhere(ports),
    stateOf: async (id: string) =>
      (await db.selectFrom("product_publishes").select("state").where("id", "=", id).executeTakeFirstOrThrow()).state,
  };
}

export type Publishing = Awaited<ReturnType<typeof startPublishing>>;

function principalOf(organisations: ReadonlyMap<string, string>, authorization: string): Principal {
  const who = authorization.replace("Bearer ", "");
  const [organisation = "", role = "provider"] = who.split("/");
  const organisationId = organisations.get(organisation);
  if (organisationId === undefined) throw new Error(`no organisation ${organisation}`);
  return { kind: "service-account", id: `sa ${who}`, name: who, role: role as RoleName, organisationId, organisation };
}

interface AgentFields {
  name?: string;
  labels?: Record<string, string>;
  capabilities?: string[];
  cordoned?: boolean;
}

const epoch = 1;
/** More than any test has open at once. */
const window = 16;

async function agentOf(
  db: Kysely<Database>,
  engine: EnginePorts,
  clusterId: string,
  more: AgentFields,
): Promise<TestAgent> {
  const id = newId("agent");
  await db
    .insertInto("agents")
    .values({
      id,
      cluster_id: clusterId,
      name: more.name ?? id,
      runtime: "local",
      runtime_identity: id,
      signing_key: "{}",
      signing_thumbprint: id,
      sealing_key: "{}",
      cordoned: more.cordoned ?? false,
      labels: JSON.stringify(more.labels ?? {}),
      capabilities: JSON.stringify(more.capabilities ?? ["gateway-class/embedded"]),
    })
    .execute();
  await db
    .insertInto("sessions")
    .values({ agent_id: id, id: newId("session"), epoch, replica_id: "r", state: "SERVING" })
    .execute();
  const claims = () => transact(db, (work) => claim(engine, work, [{ agentId: id, epoch, window }]));
  const receive = async ({ commandId, attempt }: PushedCommand) =>
    void (await recordReports(engine, [
      {
        agentId: id,
        epoch,
        message: create(CommandReceiptSchema, {
          commandId,
          attempt,
          disposition: CommandReceipt_Disposition.ACCEPTED,
        }),
      },
    ]));
  const end = async ({ commandId, attempt }: PushedCommand, outcome: DeployResult_Outcome, reason = "") =>
    void (await recordReports(engine, [
      { agentId: id, epoch, message: create(DeployResultSchema, { commandId, attempt, outcome, reason }) },
    ]));
  const spec: TestAgent["spec"] = async (command) => {
    const row = await db
      .selectFrom("deployment_generations")
      .select("spec")
      .where("deployment_id", "=", command.deploymentId)
      .where("generation", "=", command.generation)
      .executeTakeFirstOrThrow();
    return fromBinary(DeploymentSchema, row.spec);
  };
  return {
    id,
    claim: claims,
    receive,
    succeed: (command) => end(command, DeployResult_Outcome.SUCCEEDED),
    fail: (command, reason) => end(command, DeployResult_Outcome.FAILED, reason),
    spec,
    async workOff() {
      const done: string[] = [];
      for (;;) {
        const claimed = await claims();
        if (claimed.length === 0) return done;
        for (const command of claimed) {
          await receive(command);
          await end(command, DeployResult_Outcome.SUCCEEDED);
          const { dataPlane } = await spec(command);
          done.push(`${dataPlane === undefined ? "routes" : "data plane"}${command.reduces ? " gone" : ""}`);
        }
      }
    },
  };
}
