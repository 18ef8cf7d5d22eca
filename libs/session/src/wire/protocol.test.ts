import { expect, test } from "@jest/globals";
import { startDeadline, timeoutOf } from "./deadline.ts";
import { type Protocol, protocolOf } from "./protocol.ts";
import { goneBy, grpcStatus, told } from "./status.ts";
import { Code, ConnectError } from "@connectrpc/connect";

const grpc = protocolOf("application/grpc", true) as Protocol;

test.each([
  ["application/grpc", true, "grpc", true],
  ["application/grpc", false, "grpc", true],
  ["application/GRPC+proto", true, "grpc", true],
  ["application/grpc+json", false, "grpc", false],
  ["application/connect+proto", true, "connect", true],
  ["application/connect+json; charset=utf-8", true, "connect", false],
  ["application/proto", false, "unary", true],
  ["application/json;charset=utf8", false, "unary", false],
] as const)("%s (a stream: %p) is %s", (contentType, streaming, kind, binary) => {
  expect(protocolOf(contentType, streaming)).toMatchObject({ kind, binary });
});

test.each([
  ["application/connect+proto", false],
  ["application/connect+json", false],
  ["application/proto", true],
  ["application/json", true],
  ["application/grpc-web+proto", true],
  ["application/grpc+thrift", false],
  ["application/json; charset=latin1", false],
  ["", false],
  [undefined, true],
] as const)("%p (a stream: %p) is for others", (contentType, streaming) => {
  expect(protocolOf(contentType, streaming)).toBeUndefined();
});

test.each([
  ["1H", 3_600_000],
  ["2M", 120_000],
  ["3S", 3_000],
  ["4m", 4],
  ["5000u", 5],
  ["6000000n", 6],
  ["99999999H", 359_999_996_400_000],
])("grpc-timeout %s is %i ms", (value, ms) => {
  expect(timeoutOf({ "grpc-timeout": value }, grpc)).toBeCloseTo(ms);
});

test("a time that no timer of Node can hold is none, instead of passing at once", () => {
  const before = process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
  const stop = startDeadline(timeoutOf({ "grpc-timeout": "99999999H" }, grpc), () => undefined);
  expect(process.getActiveResourcesInfo().filter((kind) => kind === "Timeout")).toHaveLength(before);
  stop();
});

test("what a handler throws is told only where it was made to be", () => {
  expect(told(new Error("SELECT secret"))).toMatchObject({ code: Code.Internal, rawMessage: "internal error" });
  expect(told(new ConnectError("half \ud83d", Code.Aborted))).toMatchObject({ rawMessage: "half \ufffd" });
});

test.each([
  ["plain: text, with (all) ASCII!", "plain: text, with (all) ASCII!"],
  ["50 % é\n", "50 %25 %C3%A9%0A"],
  [" spaces at the ends ", "%20spaces at the ends%20"],
])("grpc-message of %p is %p", (text, encoded) => {
  expect(grpcStatus(new ConnectError(text, Code.Aborted))["grpc-message"]).toBe(encoded);
});

test("a cancelled call is told from a lost one", () => {
  expect(goneBy(8).code).toBe(Code.Canceled);
  for (const code of [0, 2, 7, undefined]) expect(goneBy(code).code).toBe(Code.Unavailable);
});
