/**
 * The real agent behind what breaks streams: a real nginx that speaks HTTP/1.1
 * only, and one that buffers. It polls by itself, works as ever, and goes back to
 * a stream when the way is free. polling-agent.test.ts has it harder.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Transport } from "@bowline/contract/agents";
import { certificates, runProcess, startHttp1Proxy, startNginx, testDatabase, until } from "@bowline/testing";
import { carriedBy, goesLive, join } from "../e2e/carried.ts";
import { startDetour, startTlsEnd } from "../e2e/detour.ts";
import { programs, type Server, startAgent, startServer } from "../e2e/fixture.ts";
import { issueToken, makePlace } from "../e2e/operating.ts";
import { startUpstream, type Upstream } from "../e2e/requests.ts";

/** A cold start, and dials that are apart, on two busy cores. */
const within = { withinMs: 60_000 };

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  upstream = await startUpstream();
}, 60_000);

/** What `bowline agent get` tells. */
async function shown(id: string, ...flags: string[]): Promise<string> {
  const { stdout } = await runProcess({
    command: ["node", programs.cli, "agent", "get", id, ...flags],
    env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken },
  });
  return stdout;
}

test("behind an nginx that speaks HTTP/1.1 only an agent is online by polling and a publish goes live; without it, by a stream", async () => {
  const nginx = await startNginx({ upstreams: [server.url] });
  const way = await startDetour(nginx.port);
  const { place, agent, id } = await join(server.api, `http://127.0.0.1:${way.port}`);
  const polled = await carriedBy(server.api, id, Agent_Transport.POLL);
  await goesLive(place, upstream);
  expect(agent.process.output()).toMatch(/HTTP2_UNAVAILABLE/);
  expect(await shown(id, "--output", "json")).toMatch(/"transport": "POLL"/);
  expect(await shown(id)).toMatch(/^ +transport +polling, since no stream passes/m);

  way.to(server.port);
  const streamed = await carriedBy(server.api, id, Agent_Transport.STREAM);
  expect(streamed).toBeGreaterThan(polled);
  await goesLive(place, upstream);
  expect(await shown(id)).toMatch(/^ +transport +stream$/m);
});

test("behind an nginx that ends TLS and buffers an agent is online by polling and a publish goes live; without it, by a stream", async () => {
  const { ca, server: certificate } = certificates();
  const nginx = await startNginx({ upstreams: [server.url], certificate });
  const way = await startDetour(nginx.port);
  const flags = ["--ca-file", ca.files().cert];
  const { place, agent, id } = await join(server.api, `https://127.0.0.1:${way.port}`, { flags });
  await carriedBy(server.api, id, Agent_Transport.POLL);
  await goesLive(place, upstream);
  expect(agent.process.output()).not.toMatch(/HTTP2_UNAVAILABLE/); // HTTP/2 was there, and no stream

  way.to(await startTlsEnd(certificate, server.port));
  await carriedBy(server.api, id, Agent_Transport.STREAM);
  await goesLive(place, upstream);
});

test("behind an nginx that is set up for streams an agent is online by a stream, and curl gets its answers", async () => {
  const { ca, server: certificate } = certificates();
  const nginx = await startNginx({ upstreams: [server.url], certificate, streams: true });
  // A stream passes, so that none is given up for being slow.
  const flags = ["--ca-file", ca.files().cert, "--greeting-within-ms", "60000"];
  const { place, id } = await join(server.api, nginx.url, { flags });
  await carriedBy(server.api, id, Agent_Transport.STREAM);
  await goesLive(place, upstream);
  expect((await server.api.agents.getAgent({ id })).epoch).toBe(1);
  const curl = await runProcess({
    command: ["curl", "-sS", "--http1.1", "--cacert", ca.files().cert, `${nginx.url}/ready`],
  });
  expect(curl).toMatchObject({ code: 0, stderr: "" });
});

test("an agent that is told to stream does not poll where no stream passes", async () => {
  const proxy = await startHttp1Proxy(server.url);
  const place = await makePlace(server.api);
  const agent = startAgent(proxy.url, { token: await issueToken(place), flags: ["--transport", "stream"] });
  await agent.process.untilLine("HTTP2_UNAVAILABLE", within);
  await until(() => proxy.asked.length >= 3, within);
  expect(new Set(proxy.asked)).toEqual(new Set(["PRI *"]));
});

test("an agent that is told to poll does so where a stream would pass", async () => {
  const { agent, id } = await join(server.api, server.url, { flags: ["--transport", "poll"] });
  await carriedBy(server.api, id, Agent_Transport.POLL);
  expect(agent.process.output()).not.toMatch(/stream passes|"transport":"stream"/);
});
