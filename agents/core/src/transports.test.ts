import { expect, test } from "@jest/globals";
import type { SessionEnd } from "./serve.ts";
import { chooseTransport, type TransportKind } from "./transports.ts";

const lost = (reason: string, greeted = false): SessionEnd => ({
  ...{ kind: "lost", reason, message: "", retryAfterMs: undefined, greeted },
});

const aMinute = 60_000;
const anHour = 60 * aMinute;

/** How the sessions after these ends are carried. */
function carried(
  setting: Parameters<typeof chooseTransport>[0],
  ends: readonly SessionEnd[],
  livedMs = aMinute,
): TransportKind[] {
  const choice = chooseTransport(setting);
  return ends.map((end) => {
    choice.ended(choice.next(), end, livedMs);
    return choice.next();
  });
}

test("a stream that is broken twice before its greeting is followed by polling", () => {
  for (const reason of ["HTTP2_UNAVAILABLE", "SILENT", "PEER-CLOSED", "PROTOCOL_VIOLATION", "UNIMPLEMENTED"]) {
    expect(carried("auto", [lost(reason), lost(reason)])).toEqual(["stream", "poll"]);
  }
});

test("what the server says, an address without a server, and a session that was there are no broken stream", () => {
  for (const reason of ["OVERLOADED", "TCP_REFUSED", "TLS_UNTRUSTED", "AGENT_CONFLICT", "DATABASE_UNAVAILABLE"]) {
    expect(carried("auto", Array(5).fill(lost(reason)))).toEqual(Array(5).fill("stream"));
  }
  expect(carried("auto", Array(5).fill(lost("SILENT", true)), anHour)).toEqual(Array(5).fill("stream"));
  expect(carried("auto", [lost("SILENT"), { kind: "drained", waitMs: 0 }, lost("SILENT")])).not.toContain("poll");
});

test("where polling does not open either, both are tried by turns", () => {
  const ends = ["SILENT", "SILENT", "TCP_REFUSED", "SILENT", "UNAVAILABLE"].map((reason) => lost(reason));
  expect(carried("auto", ends)).toEqual(["stream", "poll", "stream", "poll", "stream"]);
});

test("a session that polled is followed by polling, until a stream has passed", () => {
  const broken = [lost("SILENT"), lost("SILENT")];
  const ends: SessionEnd[] = [...broken, lost("SILENT", true), { kind: "superseded" }, { kind: "streams-pass" }];
  expect(carried("auto", ends)).toEqual(["stream", "poll", "poll", "poll", "stream"]);
});

test("streams that break soon, three times in a row, are followed by polling; a server that was away between is no such stream", () => {
  const cut = lost("UNAVAILABLE", true);
  expect(carried("auto", [cut, cut, cut])).toEqual(["stream", "stream", "poll"]);
  expect(carried("auto", [cut, cut, lost("TCP_REFUSED"), cut, cut])).not.toContain("poll");
});

test("a stream that breaks although one had passed is followed by polling at once, and each time the next look is later, up to a bound", () => {
  const choice = chooseTransport("auto");
  for (const _ of [1, 2]) choice.ended("stream", lost("SILENT"), 0);
  const looks = [2, 4, 8, 16, 16].map((later) => {
    choice.ended("poll", { kind: "streams-pass" }, anHour);
    choice.ended(choice.next(), lost("SILENT", later > 4), aMinute); // before or after its greeting
    expect(choice.next()).toBe("poll");
    return choice.lookLater();
  });
  expect(looks).toEqual([2, 4, 8, 16, 16]);
  choice.ended("poll", { kind: "streams-pass" }, anHour);
  choice.ended("stream", lost("SILENT", true), anHour);
  expect([choice.next(), choice.lookLater()]).toEqual(["stream", 1]);
});

test("an agent that polled begins with polling, and streams where that does not open; unless it is told otherwise", () => {
  expect(chooseTransport("auto", true).next()).toBe("poll");
  expect(chooseTransport("stream", true).next()).toBe("stream");
  const choice = chooseTransport("auto", true);
  choice.ended("poll", lost("UNIMPLEMENTED"), 0);
  expect(choice.next()).toBe("stream");
});

test("who is told to stream or to poll does nothing else", () => {
  const ends = [lost("HTTP2_UNAVAILABLE"), lost("HTTP2_UNAVAILABLE"), lost("SILENT")];
  expect(carried("stream", ends)).toEqual(["stream", "stream", "stream"]);
  expect(carried("poll", [...ends, { kind: "streams-pass" }])).not.toContain("stream");
});
