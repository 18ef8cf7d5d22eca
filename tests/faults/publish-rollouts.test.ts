/** Product publishes that go from agent to agent, and back by themselves: as people type them, and as consumers see them. */
import { beforeAll, expect, test } from "@jest/globals";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type ProductPublish, ProductPublish_State as State } from "@bowline/contract/products";
import { freePort, runProcess, testDatabase } from "@bowline/testing";
import { programs, type Server, startServer, type TestAgent } from "../e2e/fixture.ts";
import { applyProduct, freshName, joinAgent, live, makePlace, type Place } from "../e2e/operating.ts";
import { type Consumer, startConsumer, startUpstream, type Upstream } from "../e2e/requests.ts";

const names = ["press-1", "press-2", "press-3"];

let server: Server;
let upstream: Upstream;
let place: Place;
const agents: TestAgent[] = [];

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  upstream = await startUpstream();
  place = await makePlace(server.api);
  for (const name of names) agents.push(await joinAgent(place, { flags: ["--name", name] }));
}, 120_000);

/** The CLI, as a person uses it. */
function bowline(...args: string[]) {
  return runProcess({
    command: ["node", programs.cli, ...args],
    env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken, NO_COLOR: "1" },
  });
}

/** `publish create` of a product to the three agents. */
function create(product: string, ...flags: string[]) {
  return bowline("publish", "create", product, "--to", place.cluster, "--gateway", place.gatewayId, ...flags);
}

const publishIn = (text: string): string => /publish_\w+/.exec(text)?.[0] ?? "no publish is named";
const read = (id: string): Promise<ProductPublish> => server.api.publishes.getProductPublish({ id });

/** A product whose version 1 all agents serve, and who asks each of them all the time. */
async function served(): Promise<{ product: string; first: ProductPublish; consumers: Consumer[] }> {
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const done = await create(product, "--wait");
  expect(done).toMatchObject({ code: 0 });
  const { publish } = await live(server.api, publishIn(done.stdout));
  const urls = publish.targets.flatMap((target) => target.urls.slice(0, 1));
  expect(urls).toHaveLength(names.length);
  return { product, first: publish, consumers: urls.map((url) => startConsumer(`${url}/${product}`)) };
}

/** The most of a publish's commands that were open at one time. */
async function mostAtOnce(publish: ProductPublish): Promise<number> {
  const spans = await Promise.all(
    publish.targets.map(async ({ commandId }) => {
      const command = await server.api.commands.getCommand({ id: commandId });
      if (command.createdAt === undefined || command.endedAt === undefined) throw new Error(`${commandId} is open`);
      return { from: timestampMs(command.createdAt), to: timestampMs(command.endedAt) };
    }),
  );
  return Math.max(...spans.map(({ from }) => spans.filter((span) => span.from <= from && span.to > from).length));
}

/** A version whose backend nobody listens at. */
async function applyBad(product: string, version: string): Promise<number> {
  const port = await freePort();
  await applyProduct(server.api, product, { backend: `http://127.0.0.1:${port}`, version });
  return port;
}

test.each([
  { parallel: 1, together: 1 },
  { parallel: 2, together: 2 },
])(
  "with --max-parallel $parallel a publish is never on its way to more agents at a time, and no request fails",
  async ({ parallel, together }) => {
    const { product, consumers } = await served();
    await applyProduct(server.api, product, { backend: upstream.url, version: "2" });
    const done = await create(product, "--max-parallel", String(parallel), "--auto-revert", "--wait");
    expect(done).toMatchObject({ code: 0 });
    for (const name of names) expect(done.stderr).toMatch(new RegExp(`${name} +LIVE`));
    expect(done.stderr).toContain(`${names.length - parallel} more`);
    const publish = await read(publishIn(done.stdout));
    expect(publish).toMatchObject({ state: State.LIVE, liveTargets: names.length, agentsToCome: 0 });
    expect(await mostAtOnce(publish)).toBe(together);
    for (const consumer of consumers) {
      expect(await consumer.stop()).toEqual([]);
      expect(consumer.versions().join(" then ")).toMatch(/^1( then 2)?$/);
    }
  },
);

test("what cannot serve goes back by itself, the old version answers all the time, and the CLI says why", async () => {
  const { product, first, consumers } = await served();
  const port = await applyBad(product, "bad");
  const flags = ["--max-parallel", "1", "--auto-revert", "--wait"];
  const why = `route "all" sends to backend "upstream" at http://127.0.0.1:${port}: connection refused`;

  const told = await create(product, ...flags);
  expect(told).toMatchObject({ code: 1, stdout: "" });
  expect(told.stderr).toContain(`bowline: ${product} r2 to ${place.cluster}: FAILED: ${why}`);
  expect(told.stderr).toMatch(new RegExp(`press-\\d: BACKEND_UNREACHABLE: ${why.slice(0, 20)}`));
  expect(told.stderr).toMatch(/It went back: r1 is LIVE \(publish_\w+\)\./);
  expect(told.stderr).toMatch(/\nBACKEND_UNREACHABLE\n?$/);
  const failed = await read(publishIn(told.stderr));
  expect(failed).toMatchObject({ state: State.FAILED, agentsToCome: 2, conditions: [] });
  expect(failed.targets).toHaveLength(1); // the others never got it
  const back = await read(failed.supersededBy);
  expect(back).toMatchObject({ state: State.LIVE, rollbackOf: first.id, revision: 1, liveTargets: names.length });
  expect(back.createdBy).toBe("system");

  const shown = await bowline("publish", "get", failed.id);
  expect(shown.stdout).toMatch(new RegExp(`taken back by +${back.id}`));
  for (const consumer of consumers) {
    expect(await consumer.stop()).toEqual([]);
    expect(consumer.versions()).toEqual(["1"]);
  }
});

test("-o json: the failed publish on standard output, the error on standard error, exit code 1; watching it says the same", async () => {
  const { product } = await served();
  await applyBad(product, "bad");
  const told = await create(product, "--auto-revert", "--wait", "-o", "json", "--max-retries", "0");
  expect(told).toMatchObject({ code: 1 });
  const publish = JSON.parse(told.stdout) as { id: string; conditions?: string[]; supersededBy: string };
  expect(publish).toMatchObject({ state: "FAILED", reason: "BACKEND_UNREACHABLE", rollout: { autoRevert: true } });
  expect(JSON.parse(told.stderr.trim().split("\n").at(-1) ?? "")).toMatchObject({
    ...{ reason: "BACKEND_UNREACHABLE", message: expect.stringContaining("connection refused") },
  });
  const watched = await bowline("publish", "watch", publish.id, "-o", "json");
  expect(watched).toMatchObject({ code: 1 });
  const lines = watched.stdout.trim().split("\n");
  expect(lines.map((line) => JSON.parse(line) as unknown)).toContainEqual(
    expect.objectContaining({ id: publish.id, state: "FAILED", supersededBy: publish.supersededBy }),
  );
});

test("what nothing was live before has nowhere to go back to, and the CLI says that", async () => {
  const product = freshName("product");
  await applyBad(product, "bad");
  const told = await create(product, "--auto-revert", "--wait", "--max-retries", "0");
  expect(told).toMatchObject({ code: 1 });
  expect(told.stderr).toContain("there is nothing to go back to");
  expect((await bowline("publish", "list", "--product", product, "-q")).stdout.trim().split("\n")).toHaveLength(1);
});

test("wrong values of the flags are told with the flag, or the field's path, and nothing is published", async () => {
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  for (const wrong of ["-1", "two", "1.5", "", "1001"]) {
    const refused = await create(product, "--max-parallel", wrong);
    expect({ wrong, ...refused }).toMatchObject({ wrong, code: 2, stdout: "" });
    expect(refused.stderr).toContain(`option '--max-parallel <n>' argument '${wrong}' is invalid. Write a `);
  }
  expect(await create(product, "--auto-revert=maybe")).toMatchObject({ code: 2 });
  // A program that asks the API itself.
  const answer = await fetch(`${server.url}/v1/provider/product-publishes`, {
    method: "POST",
    headers: { authorization: `Bearer ${server.adminToken}`, "content-type": "application/json" },
    body: JSON.stringify({ product_id: product, cluster_id: place.cluster, rollout: { max_parallel: 1001 } }),
  });
  expect(answer.status).toBe(400);
  expect(await answer.text()).toContain("rollout.max_parallel");
  expect((await server.api.publishes.listProductPublishes({ productId: product })).productPublishes).toEqual([]);
});
