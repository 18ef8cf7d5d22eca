/** Redis is emptied, stands still, is slow, is killed, comes back empty: dispatch goes on, nothing is tried twice. */
import { expect, test } from "@jest/globals";
import { askRedis, startTcpProxy, temporaryFolder, testRedis } from "@bowline/testing";
import { metric } from "../e2e/metrics.ts";
import { startDispatch } from "./redis-dispatch.ts";

test("dispatch goes on while Redis is emptied, stands still, answers after 5 s, is killed, and comes back empty", async () => {
  const socket = `${temporaryFolder()}/redis.sock`;
  let redis = await testRedis({ socket });
  const way = await startTcpProxy({ path: socket });
  const dispatch = await startDispatch(`redis://${way.host}:${way.port}`);
  await dispatch.redisIs("ok");
  await dispatch.publishAll();

  await askRedis(socket, "FLUSHALL"); // presence and owners are gone, and nobody is told
  await dispatch.publishAll();

  redis.process?.kill("SIGSTOP");
  await dispatch.publishAll(); // before anybody has noticed
  await dispatch.redisIs("degraded");
  await dispatch.publishAll();
  redis.process?.kill("SIGCONT");
  await dispatch.redisIs("ok");
  await dispatch.publishAll();

  way.delay(5_000);
  await dispatch.publishAll();
  await dispatch.redisIs("degraded");
  await dispatch.publishAll();
  way.delay(0);
  await dispatch.redisIs("ok");
  await dispatch.publishAll();

  redis.process?.kill("SIGKILL");
  await redis.process?.ended;
  await dispatch.publishAll();
  await dispatch.redisIs("degraded");
  redis = await testRedis({ socket });
  await dispatch.redisIs("ok");
  expect(await askRedis(socket, "DBSIZE")).not.toBe(":0");
  await dispatch.publishAll();
  await dispatch.nothingRepeated();
  for (const replica of dispatch.replicas) {
    expect(await metric(replica, 'bowline_wakeups_total{via="redis"}')).toBeGreaterThan(0);
    expect(await metric(replica, 'bowline_wakeups_total{via="notify"}')).toBeGreaterThan(0);
  }
});
