/**
 * An agent of few instructions over wire.ts. It greets, sends an empty Sync,
 * and then does what its script says.
 */
import type { ClientHttp2Session } from "node:http2";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { signAssertion } from "@bowline/auth";
import {
  AgentMessageSchema,
  type ConnectResponse,
  type FetchedDeployment,
  FetchDeploymentsRequestSchema,
  FetchDeploymentsResponseSchema,
  type ServerMessage,
  ServerMessageSchema,
} from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import type { Credentials } from "./enrol.ts";
import { callUnary, cut, type Dial, dial, openDuplex, type Protocol } from "./wire.ts";

const connectPath = "/bowline.agent.v1.AgentService/Connect";
const fetchPath = "/bowline.agent.v1.AgentService/FetchDeployments";

export interface OpenAgent {
  agentId: string;
  greeting: ConnectResponse;
  send(message: MessageInitShape<typeof AgentMessageSchema>["message"]): void;
  fetch(items: readonly { commandId: string; attempt: number }[]): Promise<FetchedDeployment[]>;
  /** Resolves when the stream is over, with why; "" in order. */
  ended: Promise<string>;
  /** Cuts the connection. */
  drop(): void;
}

export interface AgentScript {
  protocol?: Protocol;
  heard?: (message: ServerMessage["message"], agent: OpenAgent) => void;
}

/** Dials and greets; resolves when the server takes commands for it. Rejects with the server's words. */
export async function openAgent(
  to: Dial,
  credentials: Credentials,
  { protocol = "connect", heard = () => undefined }: AgentScript = {},
): Promise<OpenAgent> {
  const session = await dial(to);
  try {
    return await greet(session, credentials, protocol, heard);
  } catch (error) {
    cut(session);
    throw error;
  }
}

async function greet(
  session: ClientHttp2Session,
  credentials: Credentials,
  protocol: Protocol,
  heard: NonNullable<AgentScript["heard"]>,
): Promise<OpenAgent> {
  let agent: OpenAgent | undefined;
  let greeting: ConnectResponse | undefined;
  let token = "";
  let open: (agent: OpenAgent) => void = () => undefined;
  const opened = new Promise<OpenAgent>((resolve) => (open = resolve));
  const early: ServerMessage["message"][] = [];
  const stream = openDuplex(
    session,
    connectPath,
    { authorization: await authorizationOf(credentials), protocol },
    (bytes) => {
      const { message } = fromBinary(ServerMessageSchema, bytes);
      if (message.case === "sessionToken") token = `Bearer ${message.value.accessToken}`;
      else if (agent !== undefined) heard(message, agent);
      else if (message.case === "connectResponse") greeting = message.value;
      else if (message.case === "syncReply") open((agent = agentOf(greeting)));
      else early.push(message);
    },
  );
  const send: OpenAgent["send"] = (message) =>
    stream.send(toBinary(AgentMessageSchema, create(AgentMessageSchema, { message })));
  const agentOf = (said: ConnectResponse | undefined): OpenAgent => {
    if (said === undefined) throw new Error("a SyncReply came before the greeting");
    token = `Bearer ${said.accessToken}`;
    return {
      ...{ agentId: credentials.agentId, greeting: said, send, ended: stream.ended },
      async fetch(items) {
        const asked = toBinary(
          FetchDeploymentsRequestSchema,
          create(FetchDeploymentsRequestSchema, { items: [...items] }),
        );
        return fromBinary(FetchDeploymentsResponseSchema, await callUnary(session, fetchPath, token, asked))
          .deployments;
      },
      drop: () => cut(session),
    };
  };
  send({
    case: "connectRequest",
    value: {
      ...{ processId: newId("process"), agentVersion: "0.0.0-bench", protocolMin: 1, protocolMax: 1 },
      ...{ runtime: "local", runtimeIdentity: credentials.runtimeIdentity },
      ...{ journalId: credentials.journalId, journalCounter: 1 },
    },
  });
  send({ case: "sync", value: { last: true } });
  const refused = stream.ended.then((why) => Promise.reject(new Error(`refused: ${why}`)));
  refused.catch(() => undefined); // after the greeting `ended` tells
  const ready = await Promise.race([opened, refused]);
  for (const message of early) heard(message, ready);
  return ready;
}

/** A peer knows an agent by its name; Bowline wants a signature. */
async function authorizationOf({ key, agentId, installationId }: Credentials): Promise<string> {
  if (key === undefined) return `Bearer ${agentId}`;
  const now = Date.now();
  // Above every one before, also of another process of this run.
  const counter = Math.floor((performance.timeOrigin + performance.now()) * 1_000);
  return `Bearer ${await signAssertion(key, { agentId, audience: installationId, counter, now })}`;
}
