/** Redis as Sentinel and as Cluster: used as it should be, and dispatch goes on through failovers. */
import { expect, test } from "@jest/globals";
import { startRedisCluster, startRedisSentinel, until } from "@bowline/testing";
import { metric } from "../e2e/metrics.ts";
import { startDispatch } from "./redis-dispatch.ts";

test("with Sentinel: dispatch goes on while the master is killed, and the hints go to the new one", async () => {
  const { url, master, replica } = await startRedisSentinel();
  const dispatch = await startDispatch(url);
  await dispatch.redisIs("ok");
  await dispatch.publishAll();
  master.process.kill("SIGKILL");
  await master.process.ended;
  for (let round = 0; round < 3; round += 1) await dispatch.publishAll();
  await until(async () => (await replica.ask("INFO replication")).includes("role:master"), { withinMs: 60_000 });
  await dispatch.redisIs("ok");
  for (const server of dispatch.replicas) {
    await until(async () => (await replica.ask("KEYS bowline:*")).includes(`replica:${server.replicaId}`));
  }
  const before = await metric(dispatch.replicas[0], 'bowline_wakeups_total{via="redis"}');
  await dispatch.publishAll();
  await until(async () => (await metric(dispatch.replicas[0], 'bowline_wakeups_total{via="redis"}')) > before);
  await dispatch.nothingRepeated();
});

test("with Cluster: keys go to all nodes, and dispatch goes on while one is away", async () => {
  const { url, nodes } = await startRedisCluster();
  const dispatch = await startDispatch(url);
  await dispatch.redisIs("ok");
  for (let count = 0; count < 12; count += 1) await dispatch.replicas[0].scriptedAgent({ cluster: "many" });
  const kept = () =>
    Promise.all(nodes.map(async (node) => (await node.ask("KEYS bowline:*:agent:*")).includes(":agent:")));
  await until(async () => (await kept()).every(Boolean), { what: "agents are on every node" });
  const before = await metric(dispatch.replicas[0], 'bowline_wakeups_total{via="redis"}');
  await dispatch.publishAll();
  await until(async () => (await metric(dispatch.replicas[0], 'bowline_wakeups_total{via="redis"}')) > before);

  const [, , third] = nodes;
  third?.process.kill("SIGKILL");
  await third?.process.ended;
  await dispatch.publishAll();
  await dispatch.redisIs("degraded"); // without a third of its slots a cluster takes no writes
  await dispatch.publishAll();
  await third?.again();
  await dispatch.redisIs("ok");
  await dispatch.publishAll();
  await dispatch.nothingRepeated();
  expect(await kept()).toContain(true);
});
