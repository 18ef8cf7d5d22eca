/** One agent's rows in a real PostgreSQL, and the engine's statements on them; no network. */
import { create } from "@bufbuild/protobuf";
import {
  CommandReceipt_Disposition,
  CommandReceiptSchema,
  type DeployResult_Outcome,
  DeployResultSchema,
} from "@bowline/contract/agent";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { newId } from "@bowline/kernel";
import { createEvents } from "../platform/events.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { type ChangedCommand, claim, converge, type EnginePorts, recordReports } from "./index.ts";

/** The epoch of the agent's session. */
export const epoch = 1;

export async function startEngine(db: Db) {
  const heard: ChangedCommand[] = [];
  const log = { error: () => undefined, warn: () => undefined };
  const ports: EnginePorts = {
    db,
    events: createEvents(db, log),
    owners: new Map([["test", { changed: async (_work, commands) => void heard.push(...commands) }]]),
    signals: { wake: () => undefined, cancel: () => undefined, pushAgain: () => undefined, close: () => undefined },
    random: () => 0,
    log,
  };
  const clusterId = newId("cluster");
  const agentId = newId("agent");
  await db
    .insertInto("clusters")
    .values({ id: clusterId, name: clusterId.replaceAll("_", "-"), runtime: "local" })
    .execute();
  await db
    .insertInto("agents")
    .values({
      id: agentId,
      cluster_id: clusterId,
      name: "one",
      runtime: "local",
      runtime_identity: agentId,
      signing_key: "{}",
      signing_thumbprint: agentId,
      sealing_key: "{}",
    })
    .execute();
  await db
    .insertInto("sessions")
    .values({ agent_id: agentId, id: newId("session"), epoch, replica_id: "r", state: "SERVING" })
    .execute();

  const wish = (deploymentId?: string, desired: Deployment_Desired = Deployment_Desired.RUNNING, limits = {}) => ({
    deploymentId,
    agentId,
    clusterId,
    organisationId: "",
    kind: "test",
    ownerId: "owner",
    createdBy: "tester",
    limits,
    build: () => ({ desired }),
  });

  return {
    ports,
    agentId,
    clusterId,
    /** What the owner's slice was told. */
    heard,
    wish,
    enqueue: async (...args: Parameters<typeof wish>) => {
      const [enqueued] = await transact(db, (work) => converge(ports, work, [wish(...args)]));
      if (enqueued === undefined) throw new Error("nothing was enqueued");
      return enqueued;
    },
    claimOne: async (window = 16) =>
      (await transact(db, (work) => claim(ports, work, [{ agentId, epoch, window }])))[0],
    stateOf: async (commandId: string) =>
      (
        await db
          .selectFrom("command_states")
          .select("state")
          .where("command_id", "=", commandId)
          .executeTakeFirstOrThrow()
      ).state,
    receipt: (
      commandId: string,
      attempt: number,
      disposition: CommandReceipt_Disposition = CommandReceipt_Disposition.ACCEPTED,
      at = epoch,
    ) =>
      recordReports(ports, [
        { agentId, epoch: at, message: create(CommandReceiptSchema, { commandId, attempt, disposition }) },
      ]),
    result: async (
      commandId: string,
      attempt: number,
      outcome: DeployResult_Outcome,
      more: { reason?: string; worthRetry?: boolean; epoch?: number } = {},
    ) => {
      const { epoch: at = epoch, ...fields } = more;
      const [answer] = await recordReports(ports, [
        { agentId, epoch: at, message: create(DeployResultSchema, { commandId, attempt, outcome, ...fields }) },
      ]);
      return answer?.disposition;
    },
  };
}

export type TestEngine = Awaited<ReturnType<typeof startEngine>>;
