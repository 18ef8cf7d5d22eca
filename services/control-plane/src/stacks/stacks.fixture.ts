/**
 * Stacks over a real database, for the tests of this folder: the slices behind
 * their interceptors, agents as rows, and the engine's own claims, receipts and
 * results in their name.
 */
import { randomBytes } from "node:crypto";
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { encryptionKey } from "@bowline/auth";
import {
  CommandReceipt_Disposition,
  CommandProgressSchema,
  CommandReceiptSchema,
  DeployResult_Outcome,
  DeployResultSchema,
  DeploymentStateSchema,
} from "@bowline/contract/agent";
import { ClusterService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { type Deployment, DeploymentSchema } from "@bowline/contract/deployments";
import { SecretService } from "@bowline/contract/secrets";
import { type ApplyStackRequestSchema, RolloutService, StackService } from "@bowline/contract/stacks";
import type { Database } from "@bowline/db";
import { newId } from "@bowline/kernel";
import { type Kysely, sql } from "kysely";
import { clusterPolicy, createClusters, lockClusterForChange, lockClusterForPublish } from "../clusters/index.ts";
import {
  claim,
  convergeLapsed,
  type EnginePorts,
  type PushedCommand,
  recordProgress,
  recordReports,
  recordStates,
  registerCommands,
  retireAgent,
  sessionEnded,
  sweep,
} from "../commands/index.ts";
import type { Principal } from "../platform/context.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess } from "../platform/in-process.ts";
import { transact } from "../platform/transactions.ts";
import { createSecrets } from "../secrets/index.ts";
import { placeStacks, stepDue } from "./due.ts";
import { createStacks, type StackPorts } from "./index.ts";

const epoch = 1;
/** What an agent beside a Docker Engine reports. */
export const dockerCapabilities: readonly string[] = [
  ...["images", "container-options", "networks", "limits", "volumes", "pause", "jobs", "logs", "exec"],
  ...["health-checks", "secrets", "forwards"],
];
/** More than any test has open at once. */
const window = 16;

export async function startStacks(db: Kysely<Database>) {
  const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
  const events = createEvents(db, log);
  const organisationId = newId("org");
  await db.insertInto("organisations").values({ id: organisationId, name: "alpha" }).execute();
  const principal = (role: "operator" | "provider" | "viewer"): Principal => ({
    ...{ kind: "service-account", id: `sa ${role}`, name: role, role, organisationId, organisation: "alpha" },
  });
  const engine = (): EnginePorts => enginePorts;
  const clusters = createClusters({
    ...{ db, events, log, residents: [] },
    publicUrl: () => "https://bowline.example",
    serverVersion: "0.1.0",
    countAgents: async () => new Map(),
    rekeyable: () => Promise.reject(new Error("no token is made here")),
  });
  const secrets = createSecrets({ db, events, encryption: encryptionKey(randomBytes(32)) });
  const given: Omit<StackPorts, "ring"> = {
    engine,
    clusterPolicy,
    lockCluster: lockClusterForPublish,
    lockClusterForChange,
    secretVersions: secrets.resolve,
    keepSecret: secrets.keep,
    givenVersions: secrets.given,
    plannedVersions: secrets.planned,
    dropSecrets: secrets.dropGiven,
    keyedHash: secrets.keyedHash,
  };
  const stacks = createStacks(given);
  const ports: StackPorts = { ...given, ring: () => undefined };
  const enginePorts: EnginePorts = {
    ...{ db, events, log, random: () => 0 },
    owners: new Map(Object.entries(stacks.owners)),
    signals: { wake: () => undefined, cancel: () => undefined, pushAgain: () => undefined, close: () => undefined },
  };
  const api = inProcess(
    (router) => {
      for (const slice of [clusters, secrets, stacks]) slice.register(router);
      registerCommands(router, enginePorts);
    },
    {
      authenticate: async (headers) =>
        principal((headers.get("authorization") ?? "").replace("Bearer ", "") as "operator" | "provider" | "viewer"),
    },
  );
  const operator = api.as(ClusterService, "operator");
  const provider = api.as(StackService, "provider");
  return {
    db,
    ports,
    organisationId,
    operator,
    stacks: provider,
    viewer: api.as(StackService, "viewer"),
    rollouts: api.as(RolloutService, "provider"),
    secrets: api.as(SecretService, "provider"),
    commands: api.as(CommandService, "provider"),
    operating: api.as(CommandService, "operator"),
    cluster: async (name: string, more: object = {}) => {
      const { id } = await operator.createCluster({ cluster: { name, runtime: "docker", ...more } });
      await operator.grantCluster({ id, organisationId });
      return id;
    },
    agent: (
      clusterId: string,
      name: string,
      labels: Record<string, string> = {},
      capabilities: readonly string[] = dockerCapabilities,
    ) => agentOf(db, enginePorts, { clusterId, name, labels, capabilities }),
    /** Applies Compose text; agents are healthy at once unless the policy says something else. */
    apply: (
      name: string,
      text: string,
      more: Omit<MessageInitShape<typeof ApplyStackRequestSchema>, "$typeName" | "name" | "source"> & {
        environment?: Record<string, string>;
        referred?: { name: string; content: Uint8Array }[];
      } = {},
    ) => {
      const { environment = {}, referred = [], ...rest } = more;
      return provider.applyStack({
        ...{ name, policy: { minHealthyTime: { seconds: 0n } } },
        source: { files: [{ name: "compose.yaml", content: Buffer.from(text) }], environment, referred },
        ...rest,
      });
    },
    /** What the server does by itself when it is told. */
    settle: async () => {
      await db
        .updateTable("stack_rollouts")
        .set({ due_at: new Date(0) })
        .where("ended_at", "is", null)
        .execute();
      await stepDue(ports);
    },
    placeStacks: () => placeStacks(ports),
    /** Two days pass for commands and for agents that are away, and the server sees what that does. */
    afterDays: async () => {
      const before = sql<Date>`now() - interval '2 days'`;
      await db.updateTable("command_states").set({ updated_at: before }).execute();
      await db.updateTable("command_states").set({ unbound_at: before }).where("unbound_at", "is not", null).execute();
      await db.updateTable("sessions").set({ ended_at: before }).where("state", "=", "ENDED").execute();
      return sweep(enginePorts);
    },
    retire: (agentId: string) =>
      transact(db, async (work) => {
        await work.tx.updateTable("agents").set({ state: "RETIRED" }).where("id", "=", agentId).execute();
        await retireAgent(enginePorts, work, agentId);
      }),
  };
}

export type Stacking = Awaited<ReturnType<typeof startStacks>>;
export type StackAgent = Awaited<ReturnType<typeof agentOf>>;

async function agentOf(
  db: Kysely<Database>,
  engine: EnginePorts,
  {
    clusterId,
    name,
    labels,
    capabilities,
  }: { clusterId: string; name: string; labels: Record<string, string>; capabilities: readonly string[] },
) {
  const id = newId("agent");
  await db
    .insertInto("agents")
    .values({
      ...{ id, name, cluster_id: clusterId, runtime: "docker", runtime_identity: id, signing_key: "{}" },
      ...{
        signing_thumbprint: id,
        sealing_key: "{}",
        labels: JSON.stringify(labels),
        capabilities: JSON.stringify(capabilities),
      },
    })
    .execute();
  const connect = () =>
    db
      .insertInto("sessions")
      .values({ agent_id: id, id: newId("session"), epoch, replica_id: "r", state: "SERVING" })
      .execute();
  await connect();
  let observation = 0;
  const seen = async (
    deploymentId: string,
    generation: number,
    instances: NonNullable<MessageInitShape<typeof DeploymentStateSchema>["instances"]>,
  ) => {
    observation += 1;
    await recordStates(engine, { agentId: id, epoch }, observation, [
      create(DeploymentStateSchema, { deploymentId, generation, instances }),
    ]);
  };
  const report = (message: Parameters<typeof recordReports>[1][number]["message"]) =>
    recordReports(engine, [{ agentId: id, epoch, message }]);
  const claims = (places: number = window) =>
    transact(db, (work) => claim(engine, work, [{ agentId: id, epoch, window: places }]));
  const receive = ({ commandId, attempt }: PushedCommand) =>
    report(create(CommandReceiptSchema, { commandId, attempt, disposition: CommandReceipt_Disposition.ACCEPTED }));
  const end = async (
    command: PushedCommand,
    outcome: DeployResult_Outcome,
    reason = "",
    message = "",
    worthRetry = false,
  ) => {
    await receive(command);
    const { commandId, attempt } = command;
    await report(create(DeployResultSchema, { commandId, attempt, outcome, reason, message, worthRetry }));
  };
  const spec = async (command: Pick<PushedCommand, "deploymentId" | "generation">): Promise<Deployment> => {
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
    name,
    /** What it gets now, with so many places for commands in flight. */
    claim: claims,
    spec,
    /** It has it, and works at it. */
    receive,
    /** How far it is with it. */
    progress: (
      { commandId, attempt }: PushedCommand,
      workloads: { workload: string; phase: string; message: string }[],
    ) =>
      recordProgress(engine, [
        { agentId: id, epoch, message: create(CommandProgressSchema, { commandId, attempt, workloads }) },
      ]),
    cancelled: (command: PushedCommand) => end(command, DeployResult_Outcome.CANCELLED),
    succeed: (command: PushedCommand, reason = "", message = "") =>
      end(command, DeployResult_Outcome.SUCCEEDED, reason, message),
    fail: (command: PushedCommand, reason: string, message = "") =>
      end(command, DeployResult_Outcome.FAILED, reason, message),
    /** So that it is worth another try. */
    failFirst: (command: PushedCommand, reason: string, message = "") =>
      end(command, DeployResult_Outcome.FAILED, reason, message, true),
    /** Says what runs of a deployment. */
    observe: (deploymentId: string, generation: number, how: "HEALTHY" | "UNHEALTHY" | { exitCode: number }) => {
      const state = typeof how === "string" ? { phase: "RUNNING", health: how } : { phase: "EXITED", ...how };
      return seen(deploymentId, generation, [{ workload: "web", ...state }]);
    },
    seen,
    /** Carries out all that there is for it. Returns the images that it was to run, by command. */
    workOff: async (): Promise<string[]> => {
      const done: string[] = [];
      for (;;) {
        const claimed = await claims();
        if (claimed.length === 0) return done;
        for (const command of claimed) {
          const { workloads } = await spec(command);
          done.push(command.reduces && workloads.length === 0 ? "absent" : workloads.map((one) => one.image).join(" "));
          await end(command, DeployResult_Outcome.SUCCEEDED);
        }
      }
    },
    /** It never has, or does for the first time. */
    connects: (ever: boolean) => (ever ? connect() : db.deleteFrom("sessions").where("agent_id", "=", id).execute()),
    /** Its session ends: what it has in flight is bound to none. */
    leaves: async () => {
      await db
        .updateTable("sessions")
        .set({ state: "ENDED", ended_at: new Date() })
        .where("agent_id", "=", id)
        .execute();
      await transact(db, (work) => sessionEnded(engine, work, id, epoch));
    },
    /** It is back, and has told what it has: how many commands that makes. */
    returns: async () => {
      const asked = await transact(db, (work) => convergeLapsed(engine, work, id));
      await db.updateTable("sessions").set({ state: "SERVING", ended_at: null }).where("agent_id", "=", id).execute();
      return asked;
    },
    /** Away since before anything that a test does, unless it says since when. */
    online: (serving: boolean, since: Date | null = null) =>
      db
        .updateTable("sessions")
        .set(
          serving ? { state: "SERVING", ended_at: null, opened_at: sql`now()` } : { state: "ENDED", ended_at: since },
        )
        .where("agent_id", "=", id)
        .execute(),
  };
}
