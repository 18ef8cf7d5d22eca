import { problem } from "@bowline/kernel";
import { expect, test } from "@jest/globals";
import type { Principal } from "./context.ts";
import { reasonOf } from "./in-process.ts";
import { admitScrape, type Scrape } from "./metrics-access.ts";
import { connectErrorOf, problemOf } from "./problems.ts";
import { createRateLimits } from "./rate-limits.ts";

const principal = (role: Principal["role"]): Principal => ({
  kind: "service-account",
  id: role,
  name: role,
  role,
  organisationId: "",
  organisation: "",
});

async function outcome(scrape: Partial<Scrape>, open = false): Promise<string> {
  const authenticate = async (headers: Headers) => {
    const role = headers.get("authorization")?.replace("Bearer ", "");
    if (role === "wrong") throw problem("UNAUTHENTICATED");
    return principal(role as Principal["role"]);
  };
  const admitted = admitScrape(
    { open, authenticate, limits: createRateLimits(undefined) },
    { headers: { host: "localhost:8080" }, remoteAddress: "203.0.113.9", ...scrape },
  );
  return reasonOf(
    admitted.catch((error: unknown) => {
      throw connectErrorOf(problemOf(error));
    }),
  );
}

test("a scrape from this machine is answered, one that a proxy forwards or that comes from elsewhere is not", async () => {
  for (const remoteAddress of ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) {
    expect(await outcome({ remoteAddress })).toBe("ok");
    expect(await outcome({ remoteAddress, headers: { host: "localhost", "x-forwarded-for": "203.0.113.9" } })).toBe(
      "UNAUTHENTICATED",
    );
    expect(await outcome({ remoteAddress, headers: { host: "localhost", via: "1.1 proxy" } })).toBe("UNAUTHENTICATED");
  }
  for (const remoteAddress of ["203.0.113.9", "10.0.0.1", "", "2001:db8::1"]) {
    expect(await outcome({ remoteAddress })).toBe("UNAUTHENTICATED");
    expect(await outcome({ remoteAddress }, true)).toBe("ok");
  }
});

test("a call from loopback for another name than this machine's is one that a proxy forwards, whatever it hides", async () => {
  const from = (headers: Scrape["headers"]) => outcome({ remoteAddress: "127.0.0.1", headers });
  for (const host of ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8080"]) {
    expect([host, await from({ host })]).toEqual([host, "ok"]);
    expect([host, await from({ ":authority": host })]).toEqual([host, "ok"]);
    expect([host, await from({ ":authority": "bowline.example.com", host })]).toEqual([host, "UNAUTHENTICATED"]);
  }
  const others = ["bowline.example.com", "bowline:8080", "10.0.0.5", "localhost.example.com", "127.0.0.1.nip.io"];
  for (const host of [...others, "127.example.com", "::1", "[::2]", "localhost:80:80", "", undefined]) {
    expect([host, await from({ host })]).toEqual([host, "UNAUTHENTICATED"]);
  }
  expect(await from({ host: "bowline.example.com", authorization: "Bearer viewer" })).toBe("ok");
});

test("from elsewhere tokens of viewers, operators and admins are answered, and nobody else's", async () => {
  for (const role of ["viewer", "operator", "admin"]) {
    expect(await outcome({ headers: { authorization: `Bearer ${role}` } })).toBe("ok");
  }
  for (const role of ["provider", "customer", "agent"]) {
    expect(await outcome({ headers: { authorization: `Bearer ${role}` } })).toBe("PERMISSION_DENIED");
  }
  const headers = { authorization: "Bearer wrong" };
  expect(await outcome({ remoteAddress: "127.0.0.1", headers })).toBe("UNAUTHENTICATED");
});
