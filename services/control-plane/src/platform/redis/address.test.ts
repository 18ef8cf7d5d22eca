import { expect, test } from "@jest/globals";
import { hideRedisPassword, parseRedisUrl } from "./address.ts";

test("a single server, Sentinel, Cluster and a unix socket are told apart", () => {
  expect(parseRedisUrl("redis://cache")).toMatchObject({
    mode: "single",
    nodes: [{ host: "cache", port: 6379 }],
    db: 0,
  });
  expect(parseRedisUrl("rediss://bow:p%40ss@10.0.0.7:6380/3")).toMatchObject({
    tls: true,
    username: "bow",
    password: "p@ss",
    nodes: [{ host: "10.0.0.7", port: 6380 }],
    db: 3,
  });
  expect(parseRedisUrl("redis+sentinel://:secret@a,b:26380/mymaster/2")).toMatchObject({
    mode: "sentinel",
    nodes: [
      { host: "a", port: 26379 },
      { host: "b", port: 26380 },
    ],
    master: "mymaster",
    password: "secret",
    db: 2,
  });
  expect(parseRedisUrl("rediss+cluster://[::1]:7000,n2:7001")).toMatchObject({
    mode: "cluster",
    tls: true,
    nodes: [
      { host: "::1", port: 7000 },
      { host: "n2", port: 7001 },
    ],
  });
  expect(parseRedisUrl("/run/redis.sock")).toMatchObject({
    mode: "single",
    nodes: [{ host: "/run/redis.sock", port: 0 }],
  });
});

test.each([
  ["http://cache", "expected redis://"],
  ["redis://", "expected redis://"],
  ["redis://a,b", "redis+cluster://"],
  ["redis+sentinel://a:26379", "name is missing"],
  ["redis+cluster://a/1", "database 0 only"],
  ["redis://a:0", "no HOST:PORT"],
  ["redis://a:99999", "no HOST:PORT"],
  ["redis://a/x", "no number of a database"],
  ["redis://a/1/2", "no number of a database"],
])("%s is refused with what would be right", (url, why) => {
  expect(() => parseRedisUrl(url)).toThrow(why);
});

test("a password is shown neither in the setting nor in a refusal", () => {
  expect(hideRedisPassword("redis://:topsecret@cache:6379/1")).toBe("redis://:(hidden)@cache:6379/1");
  expect(hideRedisPassword("rediss+cluster://bow:top:s@ecret@a,b")).toBe("rediss+cluster://bow:(hidden)@a,b");
  expect(hideRedisPassword("redis://cache")).toBe("redis://cache");
  for (const url of [
    "redis://:topsecret@a,b",
    "redis://x:topsecret@h/db",
    "redis://:topsecret@h:0",
    "redis://:topsecret@a@b",
    "redis://:top/topsecret@h",
  ])
    expect(String(errorOf(url))).not.toContain("topsecret");
});

function errorOf(url: string): unknown {
  try {
    return parseRedisUrl(url);
  } catch (error) {
    return error;
  }
}
