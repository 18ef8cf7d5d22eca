/** One implementation of AgentService behind two servers: connect-node's, and our own wire with connect-node for the rest. */
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  type AgentMessage,
  AgentService,
  type ExamineRequest,
  type ServerMessage,
  ServerMessageSchema,
} from "@bowline/contract/agent";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { createWire, maxStreamMessageBytes, type WireHandlers } from "@bowline/session";
import { atEnd } from "@bowline/testing";

export interface ConformanceServer {
  url: string;
  /** How streams ended on the server's side, in order: `end`, or the name of a code. */
  ends: string[];
  /** Messages that streams said. */
  heard: number;
  /** Messages of a flood that were sent. */
  sent: number;
}

type Call = { requestHeader: Pick<Headers, "get">; signal: AbortSignal };
type Talk = {
  receive(receiver: { message(message: AgentMessage): void; end(): void; failed(error: unknown): void }): void;
  /** Resolves when the next may be sent. */
  send(message: ServerMessage): Promise<void>;
};

/** An error with everything: text beyond ASCII, metadata, details. */
export function refusal(code: Code): ConnectError {
  const error = new ConnectError("refusé: 50 % of it\n½ 👍", code, { "x-request-id": "req_1", "retry-after": "2" });
  error.details.push({
    desc: ErrorInfoSchema,
    value: create(ErrorInfoSchema, { reason: "AGENT_REVOKED", domain: "bowline", metadata: { about: "a b" } }),
  });
  return error;
}

async function examine({ registrationToken, assertion }: ExamineRequest, call: Call) {
  const [what = "", value] = registrationToken.split(":");
  switch (what) {
    case "fail":
      throw refusal(Number(value));
    case "defect":
      throw new Error("a secret of the server");
    case "late":
      await new Promise((resolve) => call.signal.addEventListener("abort", resolve, { once: true }));
      throw call.signal.reason;
    case "large":
      return { cluster: "x".repeat(Number(value)) };
    default:
      return { agent: call.requestHeader.get("x-name") ?? "", cluster: assertion, protocolMax: 7 };
  }
}

/** Acknowledges heartbeats; a Goodbye's reason says what is to happen. */
async function converse(talk: Talk, server: ConformanceServer): Promise<void> {
  let sending = Promise.resolve();
  const acknowledge = (number: number): void => {
    const message = create(ServerMessageSchema, { message: { case: "heartbeatAck", value: { number } } });
    sending = sending.then(() => talk.send(message));
  };
  const over = new Promise<void>((resolve, reject) => {
    talk.receive({
      message({ message }) {
        server.heard += 1;
        if (message.case === "heartbeat") acknowledge(message.value.number);
        if (message.case !== "goodbye") return;
        const [what, value] = message.value.reason.split(":");
        if (what === "fail") reject(refusal(Number(value)));
        if (what === "defect") reject(new Error("a secret of the server"));
        if (what === "end") resolve();
        if (what === "flood") void flood(Number(value)).then(resolve, reject);
      },
      end() {
        server.ends.push("end");
        resolve();
      },
      failed(error) {
        server.ends.push(Code[ConnectError.from(error).code] ?? "");
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    });
  });
  try {
    await over;
  } finally {
    await sending; // also where it fails: what was said before comes before
  }

  async function flood(count: number): Promise<void> {
    const message = "x".repeat(60_000);
    for (server.sent = 0; server.sent < count; server.sent += 1) {
      await talk.send(create(ServerMessageSchema, { message: { case: "messageRefused", value: { message } } }));
    }
  }
}

/** As connect-node has it: two iterables. */
async function* iterated(
  requests: AsyncIterable<AgentMessage>,
  server: ConformanceServer,
): AsyncGenerator<ServerMessage> {
  const queue: { message: ServerMessage; taken: () => void }[] = [];
  let wake: () => void = () => {};
  let over = false;
  const talk: Talk = {
    receive(receiver) {
      void (async () => {
        try {
          for await (const message of requests) receiver.message(message);
          receiver.end();
        } catch (error) {
          receiver.failed(error);
        }
      })();
    },
    send: (message) =>
      new Promise<void>((taken) => {
        queue.push({ message, taken });
        wake();
      }),
  };
  const served = converse(talk, server).finally(() => {
    over = true;
    wake();
  });
  served.catch(() => undefined); // thrown below
  for (;;) {
    const next = queue.shift();
    if (next !== undefined) {
      yield next.message;
      next.taken();
    } else if (over) break;
    else await new Promise<void>((resolve) => (wake = resolve));
  }
  await served;
}

const pushed = (server: ConformanceServer): WireHandlers<typeof AgentService> => ({
  examine,
  connect: (duplex) => {
    let drained: () => void = () => {};
    duplex.drained(() => drained());
    const talk: Talk = {
      receive: (receiver) => duplex.receive(receiver),
      send: (message) =>
        duplex.write([duplex.encode(message)])
          ? Promise.resolve()
          : new Promise<void>((resolve) => (drained = resolve)),
    };
    return converse(talk, server);
  },
  enroll: unimplemented,
  fetchDeployments: unimplemented,
  rotateKey: unimplemented,
});

async function unimplemented(): Promise<never> {
  throw new ConnectError("bowline.agent.v1.AgentService.Enroll is not implemented", Code.Unimplemented);
}

export type Implementation = "connect-node" | "own" | "own, alone";

/** `own, alone`: without connect-node behind it. */
export async function startConformanceServer(implementation: Implementation): Promise<ConformanceServer> {
  const server: ConformanceServer = { url: "", ends: [], heard: 0, sent: 0 };
  const general = createServer(
    connectNodeAdapter({
      readMaxBytes: maxStreamMessageBytes,
      routes: (router) =>
        router.service(AgentService, {
          examine,
          connect: (requests) => iterated(requests, server),
          enroll: unimplemented,
        }),
    }),
  );
  let http = general;
  if (implementation !== "connect-node") {
    const wire = createWire(AgentService, pushed(server), { limitBytes: maxStreamMessageBytes, lingerMs: 200 });
    const passesOn = implementation === "own";
    http = createServer();
    http.on("stream", (stream, headers, flags, rawHeaders) => {
      if (wire.takes(headers) && !(passesOn && wire.compressed(headers))) wire.serve(stream, headers);
      else general.emit("stream", stream, headers, flags, rawHeaders);
    });
  }
  server.url = await listening(http);
  return server;
}

async function listening(http: Http2Server): Promise<string> {
  const sessions = new Set<ServerHttp2Session>();
  http.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    for (const session of sessions) session.destroy();
    await new Promise<void>((resolve) => http.close(() => resolve()));
  });
  return `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
}
