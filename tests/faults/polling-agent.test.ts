/**
 * The real agent where no stream passes, and more goes wrong: it is killed at
 * each step, its requests reach each replica by turns, replicas go away.
 * A real nginx that speaks HTTP/1.1 only is in between; it knows no sessions.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Transport } from "@bowline/contract/agents";
import { Command_State } from "@bowline/contract/commands";
import {
  type Nginx,
  startBufferingProxy,
  startHttp1Proxy,
  startNginx,
  startReplicas,
  type TestServer,
  until,
} from "@bowline/testing";
import { type Api, openApi } from "../e2e/api.ts";
import { carriedBy, goesLive, join } from "../e2e/carried.ts";
import { applyProduct, freshName, live, type Place, publish } from "../e2e/operating.ts";
import { servedVersion, startUpstream, type Upstream } from "../e2e/requests.ts";

/** Tokens that end soon. Leases far longer than the test: what a replica leaves is not swept meanwhile. */
const flags = ["--access-token-life-ms", "4000", "--lease-ms", "120000", "--lease-grace-ms", "120000"];

let a: TestServer;
/** Each is taken away by a test. */
let b: TestServer;
let c: TestServer;
let api: Api;
let upstream: Upstream;
let nginx: Nginx;

beforeAll(async () => {
  [a, b, c] = await startReplicas(3, { flags });
  api = openApi(a.url, a.adminToken);
  upstream = await startUpstream();
  nginx = await startNginx({ upstreams: [a.url, b.url, c.url] });
}, 120_000);

/** How each command of a place ended, and with which attempt. */
async function endsOf({ clusterId }: Place): Promise<{ state: Command_State; attempt: number }[]> {
  const { commands } = await api.commands.listCommands({ clusterId });
  return commands.map(({ state, attempt }) => ({ state, attempt }));
}

const done = { state: Command_State.SUCCEEDED, attempt: 1 };

/** Which replica holds a session. */
async function holder(agentId: string): Promise<string> {
  const { db } = a.database;
  const row = await db.selectFrom("sessions").select("replica_id").where("agent_id", "=", agentId).executeTakeFirst();
  return row?.replica_id ?? "";
}

/** Publishes until the session is there: nginx counts requests, and what is told and polled changes whose turn it is. */
async function heldBy(replica: TestServer, id: string, place: Place): Promise<void> {
  await until(
    async () => {
      await goesLive(place, upstream);
      return (await holder(id)) === replica.replicaId;
    },
    { withinMs: 120_000, what: `${id} polls at ${replica.replicaId}` },
  );
}

test.each(["intake.before-receipt", "converge.effect", "converge.before-result"])(
  "a polling agent killed at %s: the command has one effect and one result",
  async (fault) => {
    const { place, agent, id } = await join(api, nginx.url, { env: { BOWLINE_FAULT: fault } });
    const epoch = await carriedBy(api, id, Agent_Transport.POLL);
    const product = freshName("product");
    await applyProduct(api, product, { backend: upstream.url });
    const published = await publish(place, product);
    expect(await agent.process.ended).toMatchObject({ signal: "SIGKILL" });
    const before = agent.dataPlanes();
    const hadEffect = fault.startsWith("converge.");
    expect(before).toHaveLength(hadEffect ? 1 : 0);

    const restarted = agent.again();
    const { url } = await live(api, published.id);
    expect(await servedVersion(`${url}/${product}`)).toBe("1");
    if (hadEffect) expect(restarted.dataPlanes()).toEqual(before);
    else expect(restarted.dataPlanes()).toHaveLength(1);
    expect(await carriedBy(api, id, Agent_Transport.POLL)).toBeGreaterThan(epoch);
    expect(await endsOf(place)).toEqual([done, done]);
    expect(restarted.process.output()).not.toMatch(/HTTP2_UNAVAILABLE/); // it knew
  },
);

test("requests that reach each replica by turns are one session, and each publish goes live once", async () => {
  const { place, id } = await join(api, nginx.url);
  const epoch = await carriedBy(api, id, Agent_Transport.POLL);
  await heldBy(a, id, place);
  await heldBy(b, id, place);
  await heldBy(a, id, place);
  expect(await carriedBy(api, id, Agent_Transport.POLL)).toBe(epoch);
  for (const end of await endsOf(place)) expect(end).toEqual(done);
});

test("a session that polls renews its access token and looks for a stream, and stays the one session that it is", async () => {
  const proxy = await startHttp1Proxy(a.url);
  const { place, id } = await join(api, proxy.url);
  const epoch = await carriedBy(api, id, Agent_Transport.POLL);
  const looks = () => proxy.asked.filter((line) => line === "PRI *").length;
  const before = { looks: looks(), tokens: proxy.bearers.size };
  await until(() => looks() >= before.looks + 3 && proxy.bearers.size >= before.tokens + 5, { withinMs: 90_000 });
  await goesLive(place, upstream);
  expect(await carriedBy(api, id, Agent_Transport.POLL)).toBe(epoch);
  expect(proxy.asked.filter((line) => line.endsWith("/OpenSession"))).toHaveLength(1);
});

test("behind a proxy that speaks HTTP/2 and buffers an agent enrols, and is online by polling", async () => {
  const proxy = await startBufferingProxy(a.url);
  const { place, id } = await join(api, proxy.url);
  await carriedBy(api, id, Agent_Transport.POLL);
  await goesLive(place, upstream);
});

test("where every request is cut after two seconds, polls wait less, and the session stays", async () => {
  const proxy = await startHttp1Proxy(a.url, { cutAfterMs: 2_000 });
  const { place, id } = await join(api, proxy.url);
  const epoch = await carriedBy(api, id, Agent_Transport.POLL);
  const polls = () => proxy.asked.filter((line) => line.endsWith("/ReceiveCommands")).length;
  await until(() => polls() >= 15, { withinMs: 90_000 });
  await goesLive(place, upstream);
  expect(await carriedBy(api, id, Agent_Transport.POLL)).toBe(epoch);
});

test("a replica is killed: who polls goes on at another, in the same session", async () => {
  const { place, id } = await join(api, nginx.url);
  const epoch = await carriedBy(api, id, Agent_Transport.POLL);
  await heldBy(b, id, place);
  await b.kill();
  await goesLive(place, upstream);
  expect(await holder(id)).not.toBe(b.replicaId);
  expect(await carriedBy(api, id, Agent_Transport.POLL)).toBe(epoch);
});

test("a replica that goes away in order tells who polls, and the agent polls at another", async () => {
  const { place, agent, id } = await join(api, nginx.url);
  const epoch = await carriedBy(api, id, Agent_Transport.POLL);
  await heldBy(c, id, place);
  expect(await c.stop()).toMatchObject({ code: 0 });
  await agent.process.untilLine("the server asked to connect again");
  await until(async () => (await carriedBy(api, id, Agent_Transport.POLL)) > epoch, { withinMs: 60_000 });
  await goesLive(place, upstream);
  expect(await holder(id)).toBe(a.replicaId);
});
