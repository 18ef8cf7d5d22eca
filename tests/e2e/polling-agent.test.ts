/**
 * The real agent behind what breaks streams: a real nginx that speaks HTTP/1.1
 * only, one that buffers, and smaller ones of our own. It polls by itself, works
 * as ever, and goes back to a stream when the way is free.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Connectivity, Agent_Transport } from "@bowline/contract/agents";
import {
  certificates,
  runProcess,
  startBufferingProxy,
  startHttp1Proxy,
  startNginx,
  testDatabase,
  until,
} from "@bowline/testing";
import { startDetour, startTlsEnd } from "./detour.ts";
import { type AgentOptions, programs, type Server, startAgent, startServer, type TestAgent } from "./fixture.ts";
import { applyProduct, freshName, issueToken, live, makePlace, type Place, publish } from "./operating.ts";
import { servedVersion, startUpstream, type Upstream } from "./requests.ts";

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  upstream = await startUpstream();
}, 60_000);

/** Two tries of a stream that nothing answers take twice the first; a look for a free way is taken every second. */
const impatient = ["--greeting-within-ms", "2000", "--stream-retry-ms", "1000"];

async function join(url: string, more: AgentOptions = {}): Promise<{ place: Place; agent: TestAgent; id: string }> {
  const place = await makePlace(server.api);
  const flags = [...impatient, ...(more.flags ?? [])];
  const agent = startAgent(url, { ...more, token: await issueToken(place), flags });
  return { place, agent, id: await agent.id() };
}

async function carriedBy(id: string, transport: Agent_Transport): Promise<number> {
  const online = { connectivity: Agent_Connectivity.ONLINE, transport };
  let epoch = 0;
  await until(
    async () => {
      const shown = await server.api.agents.getAgent({ id });
      ({ epoch } = shown);
      return shown.connectivity === online.connectivity && shown.transport === online.transport;
    },
    { withinMs: 60_000, what: `${id} online by ${transport === Agent_Transport.POLL ? "polling" : "a stream"}` },
  );
  return epoch;
}

/** Publishes a product in the place, and asks for it there. */
async function goesLive(place: Place): Promise<void> {
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url, version: "7" });
  const { url } = await live(server.api, (await publish(place, product)).id);
  expect(await servedVersion(`${url}/${product}`)).toBe("7");
}

test("behind an nginx that speaks HTTP/1.1 only an agent is online by polling and a publish goes live; without it, by a stream", async () => {
  const nginx = await startNginx({ upstream: server.url });
  const way = await startDetour(nginx.port);
  const { place, agent, id } = await join(`http://127.0.0.1:${way.port}`);
  const polled = await carriedBy(id, Agent_Transport.POLL);
  await goesLive(place);
  expect(agent.process.output()).toMatch(/HTTP2_UNAVAILABLE/);

  const shown = await runProcess({
    command: ["node", programs.cli, "agent", "list", "--output", "json"],
    env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken },
  });
  expect(shown.stdout).toMatch(/"transport": "POLL"/);

  way.to(server.port);
  const streamed = await carriedBy(id, Agent_Transport.STREAM);
  expect(streamed).toBeGreaterThan(polled);
  await goesLive(place);
});

test("behind an nginx that ends TLS and buffers an agent is online by polling and a publish goes live; without it, by a stream", async () => {
  const { ca, server: certificate } = certificates();
  const nginx = await startNginx({ upstream: server.url, certificate });
  const way = await startDetour(nginx.port);
  const caFile = ca.files().cert;
  const { place, agent, id } = await join(`https://127.0.0.1:${way.port}`, { flags: ["--ca-file", caFile] });
  await carriedBy(id, Agent_Transport.POLL);
  await goesLive(place);
  expect(agent.process.output()).not.toMatch(/HTTP2_UNAVAILABLE/); // HTTP/2 was there, and no stream

  way.to(await startTlsEnd(certificate, server.port));
  await carriedBy(id, Agent_Transport.STREAM);
  await goesLive(place);
});

test.each([
  ["that speaks HTTP/1.1 only", startHttp1Proxy],
  ["that buffers", startBufferingProxy],
] as const)("behind a proxy %s an agent enrols, and is online by polling", async (_, start) => {
  const proxy = await start(server.url);
  const { id } = await join(proxy.url);
  await carriedBy(id, Agent_Transport.POLL);
  await until(() => proxy.asked.some((line) => line.endsWith("/ReceiveCommands")));
});

test("an agent that is told to poll does so where a stream would pass", async () => {
  const { agent, id } = await join(server.url, { flags: ["--transport", "poll"] });
  await carriedBy(id, Agent_Transport.POLL);
  expect(agent.process.output()).not.toMatch(/stream passes|"transport":"stream"/);
});
