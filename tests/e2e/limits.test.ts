/** What a client hears that calls more often than it may, over each protocol of the one port. */
import { expect, test } from "@jest/globals";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { AuthService } from "@bowline/contract/identity";
import { startServer } from "@bowline/testing";

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
