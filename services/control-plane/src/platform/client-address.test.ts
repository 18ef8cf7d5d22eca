import { expect, test } from "@jest/globals";
import { clientAddresses } from "./client-address.ts";

const from = (trusted: string, peer: string, headers: Record<string, string | string[]>) =>
  clientAddresses(trusted)(peer, headers);

test("without trusted proxies nobody's word counts", () => {
  expect(from("", "192.0.2.1", { "x-forwarded-for": "203.0.113.9", forwarded: "for=203.0.113.9" })).toBe("192.0.2.1");
  expect(from("", "::ffff:192.0.2.1", {})).toBe("192.0.2.1");
});

test("an untrusted peer is who it is, whatever it says", () => {
  for (const headers of [
    { "x-forwarded-for": "10.0.0.1" },
    { "x-forwarded-for": "127.0.0.1, 10.0.0.1" },
    { forwarded: "for=10.0.0.1;proto=https" },
  ] as Record<string, string>[]) {
    expect(from("10.0.0.0/8", "192.0.2.1", headers)).toBe("192.0.2.1");
  }
});

test("a trusted proxy's word counts, and what a client had written before it does not", () => {
  const spoofed = { "x-forwarded-for": "1.2.3.4, 203.0.113.9" };
  expect(from("10.0.0.0/8", "10.0.0.1", spoofed)).toBe("203.0.113.9");
  expect(from("10.0.0.0/8", "::ffff:10.0.0.1", spoofed)).toBe("203.0.113.9");
  expect(from("10.0.0.0/8", "10.0.0.1", { "x-forwarded-for": ["1.2.3.4", "203.0.113.9"] })).toBe("203.0.113.9");
});

test("a chain of trusted proxies leads to the first that is none; a client inside it is the furthest", () => {
  const chain = { "x-forwarded-for": "1.2.3.4, 203.0.113.9, 10.0.0.7, fd00::7" };
  expect(from("10.0.0.0/8,fd00::/8", "10.0.0.1", chain)).toBe("203.0.113.9");
  expect(from("10.0.0.0/8", "10.0.0.1", { "x-forwarded-for": "10.0.0.9, 10.0.0.7" })).toBe("10.0.0.9");
  expect(from("10.0.0.0/8", "10.0.0.1", {})).toBe("10.0.0.1");
});

test("Forwarded is read where there is no X-Forwarded-For: quoted, with ports, IPv6", () => {
  const read = (forwarded: string) => from("10.0.0.1", "10.0.0.1", { forwarded });
  expect(read('for=192.0.2.43, for="[2001:db8:cafe::17]:4711"')).toBe("2001:db8:cafe::17");
  expect(read("proto=https;For=203.0.113.9:1234;by=10.0.0.1")).toBe("203.0.113.9");
  expect(read("for=unknown")).toBe("10.0.0.1");
  expect(from("10.0.0.1", "10.0.0.1", { forwarded: "for=1.1.1.1", "x-forwarded-for": "2.2.2.2" })).toBe("2.2.2.2");
});

test("rubbish ends the way: the nearest hop that is an address stays", () => {
  for (const rubbish of ["", ",", "localhost", "999.1.1.1", "<script>", "unknown", "1.2.3.4;5", "\0"]) {
    expect(from("10.0.0.0/8", "10.0.0.1", { "x-forwarded-for": rubbish })).toBe("10.0.0.1");
    expect(from("10.0.0.0/8", "10.0.0.1", { "x-forwarded-for": `${rubbish}, 203.0.113.9` })).toBe("203.0.113.9");
  }
  const long = Array.from({ length: 10_000 }, () => "10.0.0.2").join(",");
  expect(from("10.0.0.0/8", "10.0.0.1", { "x-forwarded-for": `203.0.113.9,${long}` })).toBe("10.0.0.2");
});

test("a list of proxies that cannot be read names the entry", () => {
  for (const wrong of ["10.0.0.0/33", "localhost", "10.0.0.0/", "10.0.0.0/8/8", "fd00::/129", "10.0.0.0/-1"]) {
    expect(() => clientAddresses(`127.0.0.1, ${wrong}`)).toThrow(wrong);
  }
});
