/** Stock clients of our own wire and of connect-node: they see the same. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import {
  compressionGzip as gzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { expect, test } from "@jest/globals";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  type AgentMessage,
  AgentMessageSchema,
  AgentService,
  ExamineRequestSchema,
  ExamineResponseSchema,
  ServerMessageSchema,
} from "@bowline/contract/agent";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { refusalOf } from "@bowline/session";
import { atEnd, until } from "@bowline/testing";
import { streamPath, unaryPath } from "./raw.ts";
import { type Implementation, startConformanceServer } from "./servers.ts";

const run = promisify(execFile);
const implementations: Implementation[] = ["connect-node", "own"];

const transports: Record<string, (baseUrl: string) => Transport> = {
  Connect: (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }),
  "Connect as JSON": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: false }),
  gRPC: (baseUrl) => createGrpcTransport({ baseUrl }),
  "gRPC as JSON": (baseUrl) => createGrpcTransport({ baseUrl, useBinaryFormat: false }),
  "gRPC-Web": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
  "Connect, compressed": (baseUrl) =>
    createConnectTransport({ baseUrl, httpVersion: "2", sendCompression: gzip, compressMinBytes: 0 }),
  "gRPC, compressed": (baseUrl) => createGrpcTransport({ baseUrl, sendCompression: gzip, compressMinBytes: 0 }),
};

const said = (message: object): AgentMessage => create(AgentMessageSchema, { message } as never);
const heartbeat = (number: number) => said({ case: "heartbeat", value: { number } });
const goodbye = (reason: string) => said({ case: "goodbye", value: { reason } });
const codes = Object.values(Code).filter((code) => typeof code === "number");

const cases = implementations.flatMap((implementation) =>
  Object.keys(transports).map((name) => [implementation, name] as const),
);

/** A client's errors as its user sees them. */
const seen = (error: unknown) => {
  const { reason, code, message, metadata } = refusalOf(error);
  return {
    reason,
    code: Code[code],
    message,
    metadata,
    requestId: ConnectError.from(error).metadata.get("x-request-id"),
  };
};

const refused = (code: Code) => ({
  reason: "AGENT_REVOKED",
  code: Code[code],
  message: "refusé: 50 % of it\n½ 👍",
  metadata: { about: "a b" },
  requestId: "req_1",
});

test.each(cases)("%s, connect-node's client with %s: unary calls, their errors and their end", async (which, name) => {
  const { url } = await startConformanceServer(which);
  const client = createClient(AgentService, transports[name]!(url));
  const headers = { "x-name": "press-1" };
  expect(await client.examine({ assertion: "a ½" }, { headers })).toMatchObject({
    agent: "press-1",
    cluster: "a ½",
    protocolMax: 7,
  });
  expect((await client.examine({ registrationToken: "large:500000" })).cluster).toHaveLength(500_000);
  for (const code of name === "Connect" || name === "gRPC" ? codes : [Code.NotFound]) {
    const error = await client.examine({ registrationToken: `fail:${code}` }).catch(seen);
    expect(error).toEqual(refused(code));
  }
  const defect = await client.examine({ registrationToken: "defect" }).catch(seen);
  expect(defect).toMatchObject({ code: "Internal", message: "internal error" });
  const late = await client.examine({ registrationToken: "late" }, { timeoutMs: 100 }).catch(seen);
  expect(late).toMatchObject({ code: "DeadlineExceeded" });
  const large = await client.examine({ assertion: "x".repeat(70_000) }).catch(seen);
  // zlib stops at the limit with an error of its own.
  expect(large).toMatchObject({ code: name.includes("compressed") ? "Internal" : "ResourceExhausted" });
});

test.each(cases.filter(([, name]) => name !== "gRPC-Web"))(
  "%s, connect-node's client with %s: a stream talks, ends, fails and is cancelled",
  async (which, name) => {
    const server = await startConformanceServer(which);
    const client = createClient(AgentService, transports[name]!(server.url));
    const talk = async (last: AgentMessage | undefined): Promise<number[]> => {
      const numbers: number[] = [];
      let next: () => void = () => {};
      async function* says(): AsyncGenerator<AgentMessage> {
        for (let number = 1; number <= 3; number += 1) {
          const heard = new Promise<void>((resolve) => (next = resolve));
          yield heartbeat(number);
          await heard; // both directions are open at once
        }
        if (last !== undefined) yield last;
      }
      for await (const { message } of client.connect(says())) {
        numbers.push(message.case === "heartbeatAck" ? message.value.number : -1);
        next();
      }
      return numbers;
    };
    expect(await talk(undefined)).toEqual([1, 2, 3]);
    expect(await talk(goodbye("end"))).toEqual([1, 2, 3]);
    expect(await talk(goodbye(`fail:${Code.Aborted}`)).catch(seen)).toEqual(refused(Code.Aborted));
    expect(await talk(goodbye("defect")).catch(seen)).toMatchObject({ code: "Internal", message: "internal error" });

    server.ends.length = 0;
    const cancel = new AbortController();
    async function* forever(): AsyncGenerator<AgentMessage> {
      yield heartbeat(1);
      await new Promise<void>((resolve) => cancel.signal.addEventListener("abort", () => resolve(), { once: true }));
    }
    const cancelled = (async () => {
      for await (const _ of client.connect(forever(), { signal: cancel.signal })) cancel.abort();
    })().catch(seen);
    expect(await cancelled).toMatchObject({ code: "Canceled" });
    await until(() => server.ends.length > 0);
  },
);

/** grpc-js with messages that it knows as bytes only. */
function grpcClient(url: string, options: object = {}): Client {
  const client = new Client(new URL(url).host, credentials.createInsecure(), options);
  atEnd(() => client.close());
  return client;
}
const toBytes = (message: AgentMessage): Buffer => Buffer.from(toBinary(AgentMessageSchema, message));
const fromBytes = (bytes: Buffer): number => {
  const { message } = fromBinary(ServerMessageSchema, bytes);
  return message.case === "heartbeatAck" ? message.value.number : -1;
};

test.each(implementations)("%s, grpc-js: unary calls with metadata, status, details and deadline", async (which) => {
  const { url } = await startConformanceServer(which);
  const client = grpcClient(url);
  const examine = (fields: object, options: object = {}) =>
    new Promise<{ answer?: { agent: string }; error?: ServiceError }>((resolve) => {
      const metadata = new Metadata();
      metadata.set("x-name", "press-1");
      client.makeUnaryRequest(
        unaryPath,
        (bytes: Buffer) => bytes,
        (bytes) => fromBinary(ExamineResponseSchema, bytes),
        Buffer.from(toBinary(ExamineRequestSchema, create(ExamineRequestSchema, fields))),
        metadata,
        options,
        (error, answer) =>
          resolve({ ...(error === null ? {} : { error }), ...(answer === undefined ? {} : { answer }) }),
      );
    });
  expect((await examine({})).answer?.agent).toBe("press-1");
  for (const code of codes) {
    const { error } = await examine({ registrationToken: `fail:${code}` });
    // connect-node encodes the colon too, which grpc-js leaves encoded.
    const details = which === "own" ? "refusé: 50 % of it\n½ 👍" : "refusé%3A 50 % of it\n½ 👍";
    expect(error).toMatchObject({ code, details });
    expect(error?.metadata.get("x-request-id")).toEqual(["req_1"]);
    const [status] = error?.metadata.get("grpc-status-details-bin") ?? [];
    for (const part of ["AGENT_REVOKED", ErrorInfoSchema.typeName]) {
      expect(Buffer.from(status ?? "").includes(Buffer.from(part))).toBe(true);
    }
  }
  const { error } = await examine({ registrationToken: "late" }, { deadline: Date.now() + 200 });
  expect(error?.code).toBe(Code.DeadlineExceeded);
});

test.each(implementations)("%s, grpc-js: a stream talks, ends, fails and is cancelled", async (which) => {
  const server = await startConformanceServer(which);
  const client = grpcClient(server.url);
  const talk = (last: AgentMessage | undefined) =>
    new Promise<{ numbers: number[]; code: number; details: string }>((resolve) => {
      const call = client.makeBidiStreamRequest(streamPath, toBytes, fromBytes);
      const numbers: number[] = [];
      call.on("error", () => undefined); // "status" tells
      call.on("data", (number: number) => {
        numbers.push(number);
        if (number < 3) call.write(heartbeat(number + 1));
        else if (last === undefined) call.end();
        else call.write(last);
      });
      call.on("status", ({ code, details }) => resolve({ numbers, code, details }));
      call.write(heartbeat(1));
    });
  expect(await talk(undefined)).toEqual({ numbers: [1, 2, 3], code: 0, details: expect.any(String) });
  expect(await talk(goodbye("end"))).toMatchObject({ numbers: [1, 2, 3], code: 0 });
  expect(await talk(goodbye("fail:9"))).toMatchObject({
    numbers: [1, 2, 3],
    code: 9,
    details: expect.stringMatching(/^refusé/),
  });
  expect(await talk(goodbye("defect"))).toMatchObject({ numbers: [1, 2, 3], code: 13 });

  server.ends.length = 0;
  const call = client.makeBidiStreamRequest(streamPath, toBytes, fromBytes);
  const ended = new Promise<number>((resolve) => call.on("status", ({ code }) => resolve(code)));
  call.on("error", () => undefined);
  call.on("data", () => call.cancel());
  call.write(heartbeat(1));
  expect(await ended).toBe(Code.Canceled);
  await until(() => server.ends.length > 0);
});

test.each(implementations)("%s, curl: Connect's unary calls with their HTTP statuses", async (which) => {
  const { url } = await startConformanceServer(which);
  const curl = async (body: string, ...more: string[]): Promise<string> => {
    const given = ["-sS", "--http2-prior-knowledge", "-w", "\n%{http_code} %{content_type}", "-d", body];
    const type = ["-H", "content-type: application/json"];
    return (await run("curl", [...given, ...type, ...more, `${url}${unaryPath}`])).stdout;
  };
  expect(await curl(`{"assertion": "x", "unknownField": 1}`, "-H", "x-name: é")).toMatch(
    /^\{.*"protocolMax":7.*"cluster":"x".*\}\n200 application\/json$/,
  );
  expect(await curl("{")).toMatch(/^\{"code":"invalid_argument","message":".*\n400 application\/json$/s);
  expect(await curl(`{"registrationToken": "fail:5"}`)).toMatch(
    /^\{"code":"not_found".*"debug".*\n404 application\/json$/s,
  );
  expect(await curl(`{"registrationToken": "late"}`, "-H", "connect-timeout-ms: 100")).toMatch(
    /deadline_exceeded.*\n504 /s,
  );
});
