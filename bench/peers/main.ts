/**
 * A control plane with a peer's queue for an engine, as a process of its own:
 * the same call enqueues, the same agents get the same messages over the same
 * transport (transport.ts). It looks up no caller, keeps no history, has no
 * fences: all of that is in the peer's favour.
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import {
  type AgentService,
  ResultAck_Disposition,
  type ServerMessage,
  ServerMessageSchema,
} from "@bowline/contract/agent";
import { DeploymentSchema, DeploymentService } from "@bowline/contract/deployments";
import { newId, systemClock } from "@bowline/kernel";
import { acceptDuplex, type WireCall, type WireHandlers } from "@bowline/session";
import { answerCalls } from "../stand/child.ts";
import { benchSpec } from "../stand/specs.ts";
import { bullmq } from "./bullmq.ts";
import { graphile } from "./graphile.ts";
import { pgBoss } from "./pg-boss.ts";
import { type Job, noQueue, type Queue, type QueuePorts } from "./queue.ts";
import { serve, type Serving } from "./transport.ts";

const queues: Record<string, (ports: QueuePorts) => Promise<Queue> | Queue> = {
  none: noQueue,
  "graphile-worker": (ports) => graphile(ports, { batched: false }),
  "graphile-worker, batched": (ports) => graphile(ports, { batched: true }),
  "pg-boss": pgBoss,
  BullMQ: bullmq,
};

/** The channel to each agent. */
const channels = new Map<string, (message: ServerMessage) => void>();
/** Jobs that agents have: what is to happen when they report. */
const reported = new Map<string, () => void>();
const jobs = new Map<string, Job>();
let generations = 0;
let queue: Queue | undefined;
let serving: Serving | undefined;
/** By deployment: its agent. */
let owners = new Map<string, string>();

const spec = toBinary(DeploymentSchema, create(DeploymentSchema, benchSpec));

function carryOut(job: Job): Promise<void> {
  return new Promise((resolve, reject) => {
    const send = channels.get(job.agentId);
    if (send === undefined) return reject(new Error(`${job.agentId} is not connected`));
    jobs.set(job.commandId, job);
    reported.set(job.commandId, resolve);
    const { commandId, deploymentId, generation } = job;
    send(
      create(ServerMessageSchema, {
        message: {
          case: "deployCommand",
          value: { commandId, deploymentId, generation, attempt: 1, digest: "0".repeat(64), runTimeoutMs: 300_000 },
        },
      }),
    );
  });
}

function done(commandId: string): void {
  const job = jobs.get(commandId);
  jobs.delete(commandId);
  if (job === undefined) return;
  const value = { commandId, attempt: 1, disposition: ResultAck_Disposition.RECORDED };
  channels.get(job.agentId)?.(create(ServerMessageSchema, { message: { case: "resultAck", value } }));
}

const connect: WireHandlers<typeof AgentService>["connect"] = async (duplex, call) => {
  const agentId = bearerOf(call);
  const session = acceptDuplex(duplex, { clock: systemClock, hangUp: () => call.hangUp() });
  const send = (message: MessageInitShape<typeof ServerMessageSchema>["message"]): void =>
    void session.send(create(ServerMessageSchema, { message }));
  channels.set(agentId, (message) => void session.send(message));
  session.receive(({ message }) => {
    switch (message.case) {
      case "connectRequest":
        return send({
          case: "connectResponse",
          value: { sessionId: newId("session"), epoch: 1, accessToken: agentId },
        });
      case "sync":
        return send({ case: "syncReply", value: {} });
      case "heartbeat":
        return send({ case: "heartbeatAck", value: { number: message.value.number } });
      case "deployResult": {
        const { commandId } = message.value;
        reported.get(commandId)?.();
        reported.delete(commandId);
        return;
      }
      default:
    }
  });
  void session.ended.then(() => session.close());
  await session.sent;
  session.close();
};

const notOfPeers = async (): Promise<never> => {
  throw new ConnectError("peers have none of it", Code.Unimplemented);
};

const agentHandlers: WireHandlers<typeof AgentService> = {
  ...{ connect, enroll: notOfPeers, examine: notOfPeers, rotateKey: notOfPeers },
  fetchDeployments: async ({ items }) => ({
    deployments: items.map(({ commandId, attempt }) => {
      const job = jobs.get(commandId);
      if (job === undefined) return { commandId, attempt, reason: "NOT_IN_FLIGHT" };
      const { deploymentId, generation } = job;
      return { commandId, attempt, deploymentId, generation, digest: "0".repeat(64), spec };
    }),
  }),
};

function routes(router: ConnectRouter): void {
  router.service(DeploymentService, {
    reconcileDeployment: async ({ id }) => {
      const agentId = owners.get(id);
      if (queue === undefined || agentId === undefined) throw new Error(`there is no deployment ${id}`);
      generations += 1;
      await queue.add({ commandId: newId("command"), deploymentId: id, agentId, generation: generations });
      return { id };
    },
  });
}

const bearerOf = ({ requestHeader }: WireCall): string =>
  (requestHeader.get("authorization") ?? "").replace("Bearer ", "");

export const calls = {
  /** Where it listens. */
  async start(given: { queue: string; databaseUrl: string; redisSocket: string }): Promise<string> {
    const open = queues[given.queue];
    if (open === undefined) throw new Error(`there is no queue ${given.queue}`);
    queue = await open({ ...given, carryOut, done });
    serving = await serve(routes, agentHandlers);
    return serving.url;
  },
  /** Which agent has which deployments. */
  async own(given: { owners: Map<string, string> }): Promise<void> {
    owners = given.owners;
  },
  async settled(): Promise<void> {
    await queue?.settled();
  },
};

export type PeerCalls = typeof calls;

answerCalls(calls, async () => {
  await serving?.close();
  await queue?.stop();
});
