/** Publishing before, without and after agents; what goes on when one end is away. */
import { beforeAll, expect, test } from "@jest/globals";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { type Server, startAgent, startServer } from "./fixture.ts";
import {
  applyProduct,
  freshName,
  issueToken,
  joinAgent,
  live,
  makePlace,
  offline,
  publish,
  publishIn,
} from "./operating.ts";
import { servedVersion, startUpstream, type Upstream } from "./requests.ts";

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
  upstream = await startUpstream();
}, 60_000);

test("what is published before any agent exists is PENDING with NO_AGENT, and LIVE when one has enrolled", async () => {
  const place = await makePlace(server.api);
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const created = await publish(place, product);
  expect(created).toMatchObject({ state: State.PENDING, reason: "NO_AGENT", targets: [], conditions: ["NO_AGENT"] });

  startAgent(server.url, { token: await issueToken(place) });
  const { publish: now, url } = await live(server.api, created.id);
  expect(now).toMatchObject({ reason: "", liveTargets: 1, conditions: [] });
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
});

test("what is published while the agent is away is PENDING with AGENT_OFFLINE, and LIVE when it is back", async () => {
  const place = await makePlace(server.api);
  const agent = await joinAgent(place);
  await agent.process.end();
  await offline(server.api, agent);

  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  const waiting = await publishIn(server.api, id, State.PENDING);
  expect(waiting).toMatchObject({ reason: "AGENT_OFFLINE", conditions: ["AGENT_OFFLINE"] });
  expect(waiting.message).toMatch(/offline since .*follows when the agent returns/);

  agent.again();
  const { url } = await live(server.api, id);
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
});
