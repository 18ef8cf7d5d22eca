/** Limits of calls, through the interceptors that every protocol passes. */
import { ConnectError } from "@connectrpc/connect";
import { AgentService } from "@bowline/contract/agent";
import { RetryInfoSchema } from "@bowline/contract/errors";
import { OrganisationService } from "@bowline/contract/identity";
import { problem } from "@bowline/kernel";
import { expect, test } from "@jest/globals";
import { type Principal, systemPrincipal } from "./context.ts";
import { inProcess, reasonOf } from "./in-process.ts";
import { remoteAddressHeader } from "./calls.ts";
import { networkOf, wrongCredentialsPerMinute } from "./rate-limits.ts";

const admin: Principal = { ...systemPrincipal, kind: "service-account" };

/** An API where every token that starts with `good` is right and names its principal. */
function limited(limits: { principal: number; address: number }) {
  const refused: string[] = [];
  let looked = 0;
  const api = inProcess(
    (router) => {
      router.service(OrganisationService, { getOrganisation: () => ({}) });
      router.service(AgentService, {
        enroll: () => {
          throw problem("REGISTRATION_TOKEN_UNKNOWN");
        },
        fetchDeployments: () => ({}),
      });
    },
    {
      authenticate: async (headers) => {
        looked += 1;
        const token = headers.get("authorization")?.replace("Bearer ", "") ?? "";
        if (token === "expired") throw problem("TOKEN_EXPIRED");
        if (!token.startsWith("good")) throw problem("UNAUTHENTICATED");
        return { ...admin, id: token };
      },
      rateLimits: { ...limits, refused: (limit) => void refused.push(limit) },
    },
  );
  const from = (address: string) => ({ headers: { [remoteAddressHeader]: address } });
  return {
    refused,
    looked: () => looked,
    call: (token: string, address: string) =>
      api.as(OrganisationService, token).getOrganisation({ id: "a" }, from(address)),
    fetch: (address: string) =>
      api
        .as(AgentService, "access token")
        .fetchDeployments({ items: [{ commandId: "command_1", attempt: 1 }] }, from(address)),
    enrol: (address: string) =>
      api
        .as(AgentService)
        .enroll(
          { token: "bwr_a_b", signingKey: "a", sealingKey: "b", proof: "c", runtime: "local", runtimeIdentity: "d" },
          from(address),
        ),
  };
}

async function reasons(times: number, call: () => Promise<unknown>): Promise<string[]> {
  const heard: string[] = [];
  for (let count = 0; count < times; count += 1) heard.push(await reasonOf(call()));
  return heard;
}

test("a principal over its limit is RATE_LIMITED with a time to wait; another one is answered", async () => {
  const { call, refused } = limited({ principal: 2, address: 0 });
  expect(await reasons(3, () => call("good-a", "192.0.2.1"))).toEqual(["ok", "ok", "RATE_LIMITED"]);
  expect(await reasonOf(call("good-b", "192.0.2.1"))).toBe("ok");
  const error = ConnectError.from(await call("good-a", "192.0.2.2").catch((failure: unknown) => failure));
  expect(error.message).toContain("At most 2 calls per token");
  const [retry] = error.findDetails(RetryInfoSchema);
  expect(Number(retry?.retryDelay?.seconds)).toBeGreaterThan(0);
  expect(Number(error.metadata.get("retry-after"))).toBeLessThanOrEqual(60);
  expect(refused).toEqual(["principal", "principal"]);
});

test("an address over its limit is refused before its credential is looked at; another one is answered", async () => {
  const { call, looked, refused } = limited({ principal: 0, address: 2 });
  expect(await reasons(3, () => call("good-a", "192.0.2.1"))).toEqual(["ok", "ok", "RATE_LIMITED"]);
  expect(looked()).toBe(2);
  expect(await reasonOf(call("good-a", "192.0.2.2"))).toBe("ok");
  expect(refused).toEqual(["address"]);
});

test("agents' calls are not counted: many share the address of one NAT", async () => {
  const { fetch } = limited({ principal: 1, address: 1 });
  expect(new Set(await reasons(5, () => fetch("192.0.2.1")))).toEqual(new Set(["ok"]));
});

test("whoever guesses tokens is shut out long before the limit of calls, and only at that address", async () => {
  const { call, enrol, refused } = limited({ principal: 0, address: 100_000 });
  const guesses = await reasons(wrongCredentialsPerMinute + 1, () => call("wrong", "192.0.2.1"));
  expect(guesses.filter((reason) => reason === "UNAUTHENTICATED").length).toBe(wrongCredentialsPerMinute);
  expect(guesses.at(-1)).toBe("RATE_LIMITED");
  expect(await reasonOf(call("good", "192.0.2.1"))).toBe("RATE_LIMITED");
  expect(await reasonOf(call("good", "192.0.2.2"))).toBe("ok");
  // An agent of the same network still enrols, and gets its own answer.
  expect(await reasonOf(enrol("192.0.2.1"))).toBe("REGISTRATION_TOKEN_UNKNOWN");
  expect(new Set(refused)).toEqual(new Set(["credentials"]));
});

test("registration tokens are not guessed either, and that shuts nobody out of the API", async () => {
  const { call, enrol } = limited({ principal: 0, address: 100_000 });
  const guesses = await reasons(wrongCredentialsPerMinute + 1, () => enrol("192.0.2.1"));
  expect([guesses[0], guesses.at(-1)]).toEqual(["REGISTRATION_TOKEN_UNKNOWN", "RATE_LIMITED"]);
  expect(await reasonOf(call("good", "192.0.2.1"))).toBe("ok");
});

test("an expired token is no guess", async () => {
  const { call } = limited({ principal: 0, address: 100_000 });
  const answers = await reasons(wrongCredentialsPerMinute + 5, () => call("expired", "192.0.2.1"));
  expect(new Set(answers)).toEqual(new Set(["TOKEN_EXPIRED"]));
});

test("a limit of 0 limits nothing", async () => {
  const { call, refused } = limited({ principal: 0, address: 0 });
  expect(new Set(await reasons(200, () => call("wrong", "192.0.2.1")))).toEqual(new Set(["UNAUTHENTICATED"]));
  expect(new Set(await reasons(200, () => call("good", "192.0.2.1")))).toEqual(new Set(["ok"]));
  expect(refused).toEqual([]);
});

test.each([
  ["192.0.2.1", "192.0.2.1"],
  ["::ffff:192.0.2.1", "192.0.2.1"],
  ["2001:db8:0:1:2:3:4:5", "2001:db8:0:1"],
  ["2001:0db8::1:0:0:0:9", "2001:db8:0:1"],
  ["2001:db8::5", "2001:db8:0:0"],
  ["fe80::1%eth0", "fe80:0:0:0"],
  ["::1", "0:0:0:0"],
  ["", ""],
])("%s is counted as %s", (address, network) => {
  expect(networkOf(address)).toBe(network);
});
