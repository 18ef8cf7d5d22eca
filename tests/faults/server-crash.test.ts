/**
 * The server as a process that is killed at each step of a publish, and started
 * again on the same database, with a real agent beside it. Whatever the step,
 * what the caller repeats with its key is one publish, and each command has one
 * outcome, one attempt and one effect.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { Command_State as State } from "@bowline/contract/commands";
import { testDatabase, until } from "@bowline/testing";
import { startServer } from "../e2e/fixture.ts";
import { applyProduct, freshName, joinAgent, live, makePlace, online, type Place } from "../e2e/operating.ts";
import { servedVersion, startUpstream, type Upstream } from "../e2e/requests.ts";

let upstream: Upstream;
beforeAll(async () => {
  upstream = await startUpstream();
});

/** Crash points of the server, in the order in which a first publish passes them. It has two commands. */
const steps = [
  "request.before-commit",
  "request.committed", // before the answer
  "claim.committed", // before the push
  "results.before-commit",
  "results.committed", // before the acknowledgement
  "results.committed@2",
];

function publishWith(key: string, { api, clusterId, gatewayId }: Place, product: string) {
  return api.publishes.createProductPublish({ productId: product, clusterId, gatewayId, requestId: key });
}

test.each(steps)("killed at %s, a server that comes back finds one publish with one effect", async (step) => {
  const first = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  const place = await makePlace(first.api);
  const agent = await joinAgent(place);
  const product = freshName("product");
  await applyProduct(first.api, product, { backend: upstream.url });
  expect(await first.process.end()).toEqual({ code: 0, signal: null });

  const doomed = await first.again({ env: { BOWLINE_FAULT: step } });
  await online(doomed.api, agent);
  const key = `key-${step}`;
  // Where it dies after the answer the call succeeds, else its connection breaks.
  const answered = await publishWith(key, { ...place, api: doomed.api }, product).catch(() => undefined);
  expect(await doomed.process.ended).toEqual({ code: null, signal: "SIGKILL" });
  if (step.startsWith("request.")) expect(answered).toBeUndefined();

  const { api } = await first.again();
  const repeated = await publishWith(key, { ...place, api }, product);
  if (answered !== undefined) expect(repeated.id).toBe(answered.id);
  const { url } = await live(api, repeated.id);
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
  expect((await api.publishes.listProductPublishes({ clusterId: place.clusterId })).productPublishes).toHaveLength(1);
  const listed = async () => (await api.commands.listCommands({ clusterId: place.clusterId })).commands;
  await until(async () => (await listed()).every((command) => command.state === State.SUCCEEDED));
  const once = { state: State.SUCCEEDED, attempt: 1, generation: 1, failures: 0 };
  expect(await listed()).toMatchObject([once, once]);
  expect(agent.dataPlanes()).toHaveLength(1);
  // The agent's log has a line for each time that it carried a command out.
  expect(agent.process.output().match(/"msg":"command ended"/g)).toHaveLength(2);
});
