/**
 * The mock server for agents' tests: a real HTTP/2 server on loopback that
 * speaks the agent's API and has no database. It enrols whoever comes, greets,
 * answers Sync and heartbeats, and gives out the specs that the test made; all
 * else the test says.
 *
 *     const server = await startScriptedServer();
 *     // … start an agent at server.url with server.token …
 *     const session = await server.nextSession();             // SERVING
 *     const command = server.command(create(DeploymentSchema, { … }));
 *     session.push(command);
 *     await session.result(command);                           // its DeployResult; acknowledged unless told otherwise
 *     session.drop();                                          // cuts the connection
 */
import { createHash } from "node:crypto";
import { createServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { newToken, validatePublicJwk, verifyAssertion, type PublicJwk } from "@bowline/auth";
import {
  AgentService,
  type ConnectResponseSchema,
  DeployCommandSchema,
  type FetchDeploymentsResponseSchema,
  ResultAck_Disposition,
  ServerMessageSchema,
  SyncDecision_Action,
  type AgentMessage,
  type CommandReceipt,
  type ConnectRequest,
  type DeployCommand,
  type DeployResult,
  type Sync,
  type SyncReplySchema,
} from "@bowline/contract/agent";
import { DeploymentSchema, type Deployment } from "@bowline/contract/deployments";
import { newId, systemClock } from "@bowline/kernel";
import { acceptSession, hangUpKey, hangUpOf, maxUnaryMessageBytes, type AcceptedSession } from "@bowline/session";
import { atEnd } from "./endings.ts";
import { until } from "./until.ts";

export interface ScriptedServer {
  url: string;
  /** A registration token; every token enrols. */
  token: string;
  /** Requests to enrol, also those whose reply was withheld. */
  enrolments: readonly { signingKey: string; name: string }[];
  /** The next session that is SERVING, or the oldest that nobody asked for. */
  nextSession(): Promise<ServedSession>;
  /** How many dials there were. */
  readonly dials: number;
  /** A command for this spec; its spec can be fetched from now on. */
  command(spec: Deployment, more?: { attempt?: number; runTimeoutMs?: number; reduces?: boolean }): DeployCommand;
  /** What the server does otherwise; may be changed at any time. */
  ways: Ways;
}

export interface Ways {
  /** The answer to results. Undefined: none. Default: RECORDED. */
  acknowledge: ResultAck_Disposition | undefined;
  /** The answer to what Sync lists as in flight. Default: CONTINUE. */
  decide: SyncDecision_Action;
  /** Fetches fail this many times more, as UNAVAILABLE or UNAUTHENTICATED. */
  failFetches: { times: number; code: Code };
  /** Changes what a fetch answers, with what the server would have answered. */
  fetched: (answer: MessageInitShape<typeof FetchDeploymentsResponseSchema>) => typeof answer;
  /** Changes the answer to a greeting. */
  greeted: (answer: MessageInitShape<typeof ConnectResponseSchema>) => typeof answer;
  /** Changes the answer to the last page of Sync. */
  synced: (answer: MessageInitShape<typeof SyncReplySchema>) => typeof answer;
  /** So many enrolments are carried out and not answered. */
  loseEnrolments: number;
  /** Dials are refused with this. */
  refuse: ConnectError | undefined;
}

export interface ServedSession {
  greeting: ConnectRequest;
  sync: readonly Sync[];
  /** All that came after the greeting, in order. */
  received: readonly AgentMessage["message"][];
  send(message: MessageInitShape<typeof ServerMessageSchema>["message"]): void;
  push(command: DeployCommand): void;
  cancel(command: DeployCommand): void;
  /** The newest receipt of a command. */
  receipt(command: DeployCommand): Promise<CommandReceipt>;
  /** The first result of this attempt on this session, in Sync or after. */
  result(command: DeployCommand): Promise<DeployResult>;
  resultsOf(command: DeployCommand): DeployResult[];
  /** Cuts the connection. */
  drop(): void;
  /** Resolves when the stream has ended; true: with a Goodbye. */
  ended: Promise<boolean>;
}

const installationId = "installation_scripted";

export async function startScriptedServer(options: { heartbeatIntervalMs?: number } = {}): Promise<ScriptedServer> {
  const connections = new Set<ServerHttp2Session>();
  const keys = new Map<string, { agentId: string; jwk: PublicJwk }>();
  const enrolments: { signingKey: string; name: string }[] = [];
  const commands = new Map<string, { command: DeployCommand; spec: Uint8Array }>();
  const served: ServedSession[] = [];
  const counters = new Map<string, number>();
  let epoch = 0;
  let dials = 0;
  const ways: Ways = {
    acknowledge: ResultAck_Disposition.RECORDED,
    decide: SyncDecision_Action.CONTINUE,
    failFetches: { times: 0, code: Code.Unavailable },
    fetched: (answer) => answer,
    greeted: (answer) => answer,
    synced: (answer) => answer,
    loseEnrolments: 0,
    refuse: undefined,
  };

  const http = createServer(
    connectNodeAdapter({
      readMaxBytes: maxUnaryMessageBytes,
      contextValues: (request) => createContextValues().set(hangUpKey, hangUpOf(request)),
      routes: (router) =>
        router.service(AgentService, {
          enroll(request) {
            enrolments.push({ signingKey: request.signingKey, name: request.name });
            const jwk = validatePublicJwk(request.signingKey, "Ed25519");
            if (jwk === undefined) throw new ConnectError("not a key", Code.InvalidArgument);
            const known = keys.get(jwk.x) ?? { agentId: newId("agent"), jwk };
            keys.set(jwk.x, known);
            if (ways.loseEnrolments > 0) {
              ways.loseEnrolments -= 1;
              throw new ConnectError("the reply is lost", Code.Unavailable);
            }
            const facts = { name: request.name || "scripted", clusterId: "cluster_scripted", cluster: "scripted" };
            return { agentId: known.agentId, ...facts, installationId, serverTime: timestampNow() };
          },
          connect: serveStream,
          fetchDeployments({ items }) {
            if (ways.failFetches.times > 0) {
              ways.failFetches.times -= 1;
              throw new ConnectError("not now", ways.failFetches.code);
            }
            return ways.fetched({
              deployments: items.map(({ commandId, attempt }) => {
                const found = commands.get(`${commandId} ${attempt}`);
                if (found === undefined) return { commandId, attempt, reason: "NOT_IN_FLIGHT" };
                const { deploymentId, generation, digest } = found.command;
                return { commandId, attempt, deploymentId, generation, digest, spec: found.spec };
              }),
            });
          },
        }),
    }),
  );
  http.on("session", (connection) => {
    connections.add(connection);
    connection.once("close", () => connections.delete(connection));
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    for (const connection of connections) connection.destroy();
    await new Promise<void>((resolve) => http.close(() => resolve()));
  });

  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    token: newToken("bwr").text,
    enrolments,
    ways,
    get dials() {
      return dials;
    },
    nextSession: () => until(() => served.shift(), { what: "an agent's session" }),
    command(spec, more = {}) {
      const bytes = toBinary(DeploymentSchema, spec);
      const command = create(DeployCommandSchema, {
        commandId: newId("command"),
        deploymentId: spec.id,
        generation: spec.generation,
        digest: createHash("sha256").update(bytes).digest("hex"),
        attempt: more.attempt ?? 1,
        runTimeoutMs: more.runTimeoutMs ?? 30_000,
        reduces: more.reduces ?? false,
      });
      commands.set(`${command.commandId} ${command.attempt}`, { command, spec: bytes });
      return command;
    },
  };

  async function* serveStream(requests: AsyncIterable<AgentMessage>, context: HandlerContext) {
    dials += 1;
    if (ways.refuse !== undefined) throw ways.refuse;
    await checkAssertion((context.requestHeader.get("authorization") ?? "").replace("Bearer ", ""));
    const channel = acceptSession(requests, { clock: systemClock, hangUp: context.values.get(hangUpKey) });
    void converse(channel, context.values.get(hangUpKey));
    yield* channel.outgoing;
  }

  /** Throws what a server would answer: each counter is above every one before. */
  async function checkAssertion(assertion: string): Promise<void> {
    for (const { agentId, jwk } of keys.values()) {
      const verdict = await verifyAssertion(assertion, jwk, { audience: installationId, now: Date.now() });
      if (!verdict.ok || verdict.agentId !== agentId) continue;
      if (verdict.counter <= (counters.get(agentId) ?? 0)) break;
      counters.set(agentId, verdict.counter);
      return;
    }
    throw new ConnectError("the assertion does not hold", Code.Unauthenticated);
  }

  async function converse(channel: AcceptedSession, hangUp: () => void): Promise<void> {
    const received: AgentMessage["message"][] = [];
    const sync: Sync[] = [];
    let said: (goodbye: boolean) => void = () => {};
    const ended = new Promise<boolean>((resolve) => (said = resolve));
    const send: ServedSession["send"] = (message) =>
      void channel.send(create(ServerMessageSchema, { message } as MessageInitShape<typeof ServerMessageSchema>));
    const acknowledge = ({ commandId, attempt }: DeployResult): void => {
      if (ways.acknowledge === undefined) return;
      send({ case: "resultAck", value: { commandId, attempt, disposition: ways.acknowledge } });
    };
    const resultsOf: ServedSession["resultsOf"] = ({ commandId, attempt }) => {
      const later = received.flatMap((message) => (message.case === "deployResult" ? [message.value] : []));
      const all = [...sync.flatMap(({ results }) => results), ...later];
      return all.filter((result) => result.commandId === commandId && result.attempt === attempt);
    };
    let greeting: ConnectRequest | undefined;
    for await (const { message } of channel.messages) {
      if (message.case !== "connectRequest") received.push(message);
      switch (message.case) {
        case "connectRequest":
          greeting = message.value;
          send({ case: "connectResponse", value: ways.greeted(greeted()) });
          break;
        case "heartbeat":
          send({ case: "heartbeatAck", value: { number: message.value.number, serverTime: timestampNow() } });
          break;
        case "tokenRequest":
          send({ case: "sessionToken", value: { accessToken: "renewed" } });
          break;
        case "deployResult":
          acknowledge(message.value);
          break;
        case "sync":
          sync.push(message.value);
          if (!message.value.last || greeting === undefined) break;
          for (const page of sync) for (const result of page.results) acknowledge(result);
          send({ case: "syncReply", value: ways.synced({ decisions: decisions(sync), last: true }) });
          served.push({
            ...{ greeting, sync, received, send, resultsOf, ended },
            push: (command) => send({ case: "deployCommand", value: command }),
            cancel: ({ commandId, attempt }) => send({ case: "cancelCommand", value: { commandId, attempt } }),
            receipt: (command) => until(() => receiptOf(received, command), { what: "a receipt" }),
            result: (command) => until(() => resultsOf(command)[0], { what: "a result" }),
            drop: hangUp,
          });
          break;
        default:
          break; // Kept in `received`.
      }
    }
    said(received.at(-1)?.case === "goodbye");
    channel.close();
  }

  function greeted() {
    epoch += 1;
    return {
      ...{ sessionId: newId("session"), epoch, incarnation: 1, accessToken: `token ${epoch}`, protocol: 1 },
      heartbeatIntervalMs: options.heartbeatIntervalMs ?? 15_000,
      silenceLimitMs: 45_000,
      window: 8,
      serverTime: timestampNow(),
    };
  }

  function decisions(pages: readonly Sync[]) {
    return pages.flatMap(({ journal }) =>
      journal.map(({ commandId, attempt }) => ({ commandId, attempt, action: ways.decide })),
    );
  }
}

function receiptOf(received: readonly AgentMessage["message"][], command: DeployCommand): CommandReceipt | undefined {
  const found = received.findLast(
    (message) => message.case === "commandReceipt" && message.value.commandId === command.commandId,
  );
  return found?.case === "commandReceipt" ? found.value : undefined;
}
