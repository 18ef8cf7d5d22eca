import { expect, test } from "@jest/globals";
import { askRedis, testRedis } from "./redis.ts";

test("each test's Redis answers, is empty, and is its own", async () => {
  const [one, two] = [await testRedis(), await testRedis()];
  expect(await askRedis(one.url, "PING")).toBe("+PONG");
  await askRedis(one.url, "SET key value");
  expect(await askRedis(one.url, "DBSIZE")).toBe(":1");
  expect(await askRedis(two.url, "DBSIZE")).toBe(":0");
});
