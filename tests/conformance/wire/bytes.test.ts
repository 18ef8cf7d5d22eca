/**
 * What no client sends, to our own wire and to connect-node. The same requests
 * go to both; where the answer is known, it is said, and both have to agree.
 */
import { connect, constants } from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { ExamineRequestSchema } from "@bowline/contract/agent";
import { atEnd, until } from "@bowline/testing";
import { openByHand } from "./frames.ts";
import { ask, bytesOf, envelope, type RawAnswer, type RawRequest, read, streamPath, unaryPath } from "./raw.ts";
import { type ConformanceServer, type Implementation, startConformanceServer } from "./servers.ts";

const implementations: Implementation[] = ["connect-node", "own"];

/** Both answer that, and the same. */
async function both(
  request: RawRequest,
  each?: (answer: RawAnswer, server: ConformanceServer) => void,
): Promise<RawAnswer> {
  const answers: RawAnswer[] = [];
  for (const implementation of implementations) {
    const server = await startConformanceServer(implementation);
    const answer = await ask(server.url, request);
    each?.(answer, server);
    answers.push(answer);
  }
  const [theirs, ours] = answers;
  expect({ ...ours, rstCode: 0 }).toEqual({ ...theirs, rstCode: 0 });
  if (ours === undefined) throw new Error("no answer");
  return ours;
}

const grpc = { "content-type": "application/grpc", te: "trailers" };
const connectStream = { "content-type": "application/connect+proto", "connect-protocol-version": "1" };
const proto = { "content-type": "application/proto", "connect-protocol-version": "1" };
const empty = envelope(toBinary(ExamineRequestSchema, create(ExamineRequestSchema)));

test.each([
  ["GET of a stream", { ":method": "GET", ":path": streamPath }, 405],
  ["GET of a unary call", { ":method": "GET", ":path": unaryPath, ...proto }, 405],
  ["PUT", { ":method": "PUT", ":path": unaryPath, ...proto }, 405],
  ["no content type", { ":path": unaryPath }, 415],
  ["another content type", { ":path": unaryPath, "content-type": "text/plain" }, 415],
  ["an unknown format of gRPC", { ":path": unaryPath, "content-type": "application/grpc+thrift" }, 415],
  ["a stream's type for a unary call", { ":path": unaryPath, ...connectStream }, 415],
  ["a unary call's type for a stream", { ":path": streamPath, ...proto }, 415],
  ["an unknown method", { ":path": "/bowline.agent.v1.AgentService/Nothing", ...grpc }, 404],
  ["another case of the method", { ":path": unaryPath.replace("Examine", "examine"), ...grpc }, 404],
  ["a query", { ":path": `${unaryPath}?x=1`, ...proto }, 200],
  ["upper case", { ":path": unaryPath, "content-type": "Application/PROTO" }, 200],
  ["a charset", { ":path": unaryPath, "content-type": "application/json; charset=utf-8" }, 400],
  ["another charset", { ":path": unaryPath, "content-type": "application/json; charset=latin1" }, 415],
] as const)("%s is answered by both with the same status", async (_, headers, status) => {
  const chunks = headers[":path"] === unaryPath || "te" in headers ? [] : undefined;
  expect((await both({ headers, ...(chunks === undefined ? {} : { chunks }) })).status).toBe(status);
});

test.each([
  ["no message", [], "12"],
  ["two messages", [empty, empty], "12"],
  ["half a message", [empty.subarray(0, 3)], "3"],
  ["a length without its message", [envelope(new Uint8Array(3), 0, 9)], "3"],
  ["a length above the limit", [envelope(new Uint8Array(1), 0, 4_000_000_000)], "8"],
  ["a compressed flag without compression", [envelope(new Uint8Array(0), 1)], "13"],
  ["bytes that are no protobuf", [envelope(Buffer.from("rubbish"))], "13"],
] as const)("a unary call over gRPC with %s gets the same status from both", async (_, chunks, status) => {
  const answer = await both({ headers: { ":path": unaryPath, ...grpc }, chunks });
  expect(answer).toMatchObject({ status: 200, headers: { "grpc-status": status } });
});

test.each([
  ["1", "an unknown unit"],
  ["123456789m", "nine digits"],
  ["-1S", "a sign"],
  ["", "nothing"],
  ["S", "no number"],
])("grpc-timeout %p (%s) is INVALID_ARGUMENT at both", async (timeout) => {
  const headers = { ":path": unaryPath, ...grpc, "grpc-timeout": timeout };
  expect((await both({ headers, chunks: [empty] })).headers["grpc-status"]).toBe("3");
});

test.each(["x", "-1", "12345678901", "1.5"])("connect-timeout-ms %p is refused by both with 400", async (timeout) => {
  const headers = { ":path": unaryPath, ...proto, "connect-timeout-ms": timeout };
  expect((await both({ headers })).status).toBe(400);
});

test("a deadline that passes at the server is told by its protocol's means", async () => {
  const late = toBinary(ExamineRequestSchema, create(ExamineRequestSchema, { registrationToken: "late" }));
  const overGrpc = { ":path": unaryPath, ...grpc, "grpc-timeout": "50m" };
  expect((await both({ headers: overGrpc, chunks: [envelope(late)] })).headers["grpc-status"]).toBe("4");
  const unary = { ":path": unaryPath, ...proto, "connect-timeout-ms": "50" };
  expect((await both({ headers: unary, chunks: [late] })).status).toBe(504);
});

test("a compressed request is served where connect-node is behind, and else refused with what is understood", async () => {
  const unknown = { ":path": unaryPath, ...grpc, "grpc-encoding": "snappy" };
  expect((await both({ headers: unknown, chunks: [empty] })).headers["grpc-status"]).toBe("12");
  const { url } = await startConformanceServer("own, alone");
  for (const [path, type, header] of [
    [unaryPath, grpc, "grpc-encoding"],
    [streamPath, grpc, "grpc-encoding"],
    [streamPath, connectStream, "connect-content-encoding"],
    [unaryPath, proto, "content-encoding"],
  ] as const) {
    const answer = await ask(url, { headers: { ":path": path, ...type, [header]: "gzip" }, chunks: [empty] });
    const told = `${answer.status} ${answer.headers["grpc-status"] ?? ""} ${answer.body.toString()}`;
    expect(told).toMatch(/^501|^200 12|^200 .*unimplemented/s);
    expect(answer.headers[header.replace(/(content-)?encoding/, "accept-encoding")]).toBe("identity");
  }
  const identity = { ":path": unaryPath, ...grpc, "grpc-encoding": "identity", "grpc-accept-encoding": "snappy" };
  expect((await both({ headers: identity, chunks: [empty] })).headers["grpc-status"]).toBe("0");
});

test.each([
  ["gRPC", grpc],
  ["Connect", connectStream],
])("a stream over %s is the same in any cuts, up to one byte each, from both", async (_, type) => {
  const whole = Buffer.concat([1, 2, 3].map((number) => envelope(bytesOf({ heartbeat: number }))));
  const bytes = [...whole].map((byte) => Buffer.from([byte]));
  for (const chunks of [[whole], bytes]) {
    const answer = await both({ headers: { ":path": streamPath, ...type }, chunks });
    expect(read(answer.body).filter((part) => typeof part === "number")).toEqual([1, 2, 3]);
    if (type === grpc) expect(answer.headers["grpc-status"]).toBe("0");
    else expect(read(answer.body).at(-1)).toBe("{}");
  }
});

test.each([
  ["half an envelope", [Buffer.from([0, 0])], "InvalidArgument"],
  ["a length above the limit", [envelope(new Uint8Array(1), 0, 65_537)], "ResourceExhausted"],
  ["a compressed flag", [envelope(new Uint8Array(0), 1)], "Internal"],
  ["rubbish", [envelope(Buffer.from("rubbish"))], "Internal"],
] as const)("a stream with %s fails at both, over gRPC and Connect", async (_, chunks, code) => {
  const first = envelope(bytesOf({ heartbeat: 7 }));
  for (const type of [grpc, connectStream]) {
    const answer = await both(
      { headers: { ":path": streamPath, ...type }, chunks: [first, ...chunks] },
      (_one, server) => expect(server.ends).toEqual([code]),
    );
    expect(read(answer.body)[0]).toBe(7);
    if (type === grpc) expect(answer.headers["grpc-status"]).toBe(String(Code[code]));
  }
});

test("any bytes in any cuts get the same answer from both", async () => {
  const servers = await Promise.all(implementations.map((implementation) => startConformanceServer(implementation)));
  const sound = fc.oneof(
    fc.nat(2 ** 32 - 1).map((number) => envelope(bytesOf({ heartbeat: number }))),
    fc.constant(envelope(new Uint8Array(0))),
  );
  const broken = fc.oneof(
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.uint8Array({ maxLength: 40 }), fc.nat(3)).map(([bytes, flags]) => envelope(bytes, flags)),
    fc.uint8Array({ maxLength: 9 }).map((bytes) => envelope(bytes, 0, bytes.byteLength + 1)),
  );
  const body = fc
    .tuple(fc.array(sound, { maxLength: 4 }), fc.option(broken))
    .map(([whole, last]) => Buffer.concat(last === null ? whole : [...whole, last]));
  // connect-node does not notice that a message is missing of which only the length came.
  const endsAfterHead = (bytes: Buffer): boolean => {
    for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt32BE(at + 1)) {
      if (at + 5 === bytes.length) return bytes.readUInt32BE(at + 1) > 0;
    }
    return false;
  };
  // How much was answered before a failure is chance.
  const endOf = (answer: RawAnswer | undefined) => {
    const { status, headers, body } = answer ?? {
      status: 0,
      headers: {} as Record<string, string>,
      body: Buffer.alloc(0),
    };
    const parts = read(body);
    const failed = (headers["grpc-status"] ?? "0") !== "0" || String(parts.at(-1)).includes("error");
    return { status, headers, parts: failed ? parts.slice(-1).filter((part) => typeof part === "string") : parts };
  };
  await fc.assert(
    fc.asyncProperty(body, fc.nat(), fc.constantFrom(grpc, connectStream), async (bytes, place, type) => {
      fc.pre(!endsAfterHead(bytes));
      const at = place % (bytes.length + 1);
      const chunks = [bytes.subarray(0, at), bytes.subarray(at)].filter((chunk) => chunk.length > 0);
      const request = { headers: { ":path": streamPath, ...type }, chunks };
      const [theirs, ours] = await Promise.all(servers.map(({ url }) => ask(url, request)));
      expect(endOf(ours)).toEqual(endOf(theirs));
    }),
    { numRuns: 150, seed: 13 },
  );
});

test("a caller that goes on when it is answered is stopped behind the whole answer, without an error", async () => {
  const { url } = await startConformanceServer("own");
  for (const headers of [grpc, connectStream]) {
    const chunks = [envelope(bytesOf({ heartbeat: 1 })), envelope(bytesOf({ goodbye: `fail:${Code.Aborted}` }))];
    const answer = await ask(url, { headers: { ":path": streamPath, ...headers }, chunks, open: true });
    expect(answer.rstCode).toBe(constants.NGHTTP2_NO_ERROR);
    expect(`${answer.headers["grpc-status"]} ${answer.body.toString()}`).toMatch(/^10 |"code":"aborted"/);
  }
  const large = { ":path": unaryPath, ...proto };
  const answer = await ask(url, { headers: large, chunks: [Buffer.alloc(70_000)], open: true });
  expect(answer).toMatchObject({ status: 429, rstCode: constants.NGHTTP2_NO_ERROR });
});

test.each([
  [
    "RST_STREAM with CANCEL",
    (call: ReturnType<typeof openByHand>) => call.reset(constants.NGHTTP2_CANCEL),
    ["Canceled"],
  ],
  ["RST_STREAM with another code", (call: ReturnType<typeof openByHand>) => call.reset(2), ["Unavailable"]],
  [
    "the end of its connection",
    ({ socket }: ReturnType<typeof openByHand>) => void socket.destroy(),
    ["Canceled", "Unavailable"],
  ],
])("a caller that goes by %s ends the handler's stream", async (_, go, codes) => {
  const server = await startConformanceServer("own");
  const call = openByHand(server.url, { ":path": streamPath, ...grpc });
  call.data(envelope(bytesOf({ heartbeat: 1 })));
  await new Promise((resolve) => call.socket.once("data", resolve));
  await until(() => server.heard > 0);
  go(call);
  await until(() => server.ends.length > 0);
  expect(server.ends).toHaveLength(1);
  expect(codes).toContain(server.ends[0]);
});

test("a caller that reads nothing holds the handler back, and gets all of it when it reads", async () => {
  const server = await startConformanceServer("own");
  const connection = connect(server.url);
  atEnd(() => connection.destroy());
  const stream = connection.request({ ":method": "POST", ":path": streamPath, ...grpc });
  let status: unknown;
  stream.on("trailers", (trailers) => (status = trailers["grpc-status"]));
  stream.write(envelope(bytesOf({ goodbye: "flood:300" })));
  let before = -1;
  await until(() => {
    const standing = server.sent > 0 && server.sent === before;
    before = server.sent;
    return standing;
  });
  expect(server.sent).toBeLessThan(300);
  let bytes = 0;
  stream.on("data", (chunk: Buffer) => (bytes += chunk.length));
  await until(() => status !== undefined);
  expect(status).toBe("0");
  expect(bytes).toBeGreaterThan(300 * 60_000);
});
