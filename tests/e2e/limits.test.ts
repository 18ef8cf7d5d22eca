/** What clients and agents hear that call or dial more often than they may. */
import { expect, test } from "@jest/globals";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { AuthService } from "@bowline/contract/identity";
import { refusalOf } from "@bowline/session";
import { enrolScriptedAgent, startServer, until } from "@bowline/testing";

test("over the limit REST answers 429 with Retry-After, Connect and gRPC RESOURCE_EXHAUSTED with RetryInfo", async () => {
  const server = await startServer({ flags: ["--rate-limit-principal", "1"] });
  const headers = { authorization: `Bearer ${server.adminToken}` };
  const me = () => fetch(`${server.url}/v1/auth/me`, { headers: { ...headers, connection: "close" } });
  expect((await me()).status).toBe(200);

  const refused = await me();
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(await refused.json()).toMatchObject({ code: "resource_exhausted", reason: "RATE_LIMITED" });

  const baseUrl = server.url;
  const transports: Transport[] = [
    createConnectTransport({ baseUrl, httpVersion: "1.1", nodeOptions: { agent: false } }),
    createGrpcTransport({ baseUrl }),
  ];
  for (const transport of transports) {
    const client = createClient(AuthService, transport);
    const error = ConnectError.from(await client.getMe({}, { headers }).catch((failure: unknown) => failure));
    expect(error.findDetails(ErrorInfoSchema)[0]?.reason).toBe("RATE_LIMITED");
    expect(error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds).toBeGreaterThan(0n);
  }
  const metrics = await (await fetch(`${server.url}/metrics`, { headers: { connection: "close" } })).text();
  expect(metrics).toContain('bowline_refused_total{limit="principal"} 3');
});

test("a dial over the limit is OVERLOADED with a time to wait, and is taken when there is room again", async () => {
  const server = await startServer({ flags: ["--dials-per-second", "1"] });
  const { id } = await server.operator.cluster("crowded");
  const enrol = async () => enrolScriptedAgent({ url: server.url, token: await server.operator.registrationToken(id) });
  const agents = await Promise.all(Array.from({ length: 8 }, enrol));

  const ends = await Promise.allSettled(agents.map((agent) => agent.connect()));
  const refused = ends.flatMap((end, at) => (end.status === "rejected" ? [{ at, why: refusalOf(end.reason) }] : []));
  expect(ends.some((end) => end.status === "fulfilled")).toBe(true);
  expect(refused.length).toBeGreaterThan(0);
  for (const { why } of refused) {
    expect(why).toMatchObject({ reason: "OVERLOADED", metadata: { limit: "dials" } });
    expect(why.retryAfterMs).toBeGreaterThanOrEqual(1_000);
  }
  const [first] = refused;
  const connected = await until(() => agents[first?.at ?? 0]?.connect().catch(() => undefined));
  expect(connected?.greeting.epoch).toBe(1);
  const metrics = await (await fetch(`${server.url}/metrics`, { headers: { connection: "close" } })).text();
  expect(metrics).toMatch(/bowline_refused_total\{limit="dials"\} [1-9]/);
});
