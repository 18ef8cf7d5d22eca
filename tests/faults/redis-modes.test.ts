/** Redis as Sentinel and as Cluster: used as it should be, and dispatch goes on through failovers. */
import { expect, test } from "@jest/globals";
import { startRedisCluster, startRedisSentinel, until } from "@bowline/testing";
import { metric } from "../e2e/metrics.ts";
import { type Dispatch, startDispatch } from "./redis-dispatch.ts";

const within = { withinMs: 60_000 };

/** Publishes until a replica was told of one by Redis: who listens there may be back a moment after who writes. */
async function hintsCome(dispatch: Dispatch): Promise<void> {
  const told = () => metric(dispatch.replicas[0], 'bowline_wakeups_total{via="redis"}');
  const before = await told();
  const isTold = async (): Promise<boolean> => {
    await dispatch.publishAll();
    return (await told()) > before;
  };
  await until(isTold, { ...within, what: "a replica is told by Redis" });
}

test("with Sentinel: dispatch goes on while the master is killed, and the hints go to the new one", async () => {
  const { url, master, replica } = await startRedisSentinel();
  const dispatch = await startDispatch(url);
  await dispatch.redisIs("ok");
  await dispatch.publishAll();
  master.process.kill("SIGKILL");
  await master.process.ended;
  for (let round = 0; round < 3; round += 1) await dispatch.publishAll();
  await until(async () => (await replica.ask("INFO replication")).includes("role:master"), within);
  await dispatch.redisIs("ok");
  for (const server of dispatch.replicas) {
    await until(async () => (await replica.ask("KEYS bowline:*")).includes(`replica:${server.replicaId}`), within);
  }
  await hintsCome(dispatch);
  await dispatch.nothingRepeated();
});

test("with Cluster: keys go to all nodes, and dispatch goes on while one is away", async () => {
  const { url, nodes } = await startRedisCluster();
  const dispatch = await startDispatch(url);
  await dispatch.redisIs("ok");
  const kept = () =>
    Promise.all(nodes.map(async (node) => (await node.ask("KEYS bowline:*:agent:*")).includes(":agent:")));
  const onEveryNode = async (): Promise<boolean> => {
    // Chance has it where an agent's key is kept, so that others come until each node has one.
    await dispatch.replicas[0].scriptedAgent({ cluster: "many" });
    return (await kept()).every(Boolean);
  };
  await until(onEveryNode, { ...within, what: "agents are on every node" });
  await hintsCome(dispatch);

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
