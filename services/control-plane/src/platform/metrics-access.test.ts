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
    { headers: {}, remoteAddress: "203.0.113.9", ...scrape },
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
    expect(await outcome({ remoteAddress, headers: { "x-forwarded-for": "203.0.113.9" } })).toBe("UNAUTHENTICATED");
    expect(await outcome({ remoteAddress, headers: { via: "1.1 proxy" } })).toBe("UNAUTHENTICATED");
  }
  for (const remoteAddress of ["203.0.113.9", "10.0.0.1", "", "2001:db8::1"]) {
    expect(await outcome({ remoteAddress })).toBe("UNAUTHENTICATED");
    expect(await outcome({ remoteAddress }, true)).toBe("ok");
  }
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
