/** Rollouts on a Docker host under clients that keep asking: start first, blue/green over UDP, a canary that is promoted by hand. */
import { createSocket } from "node:dgram";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { UpdateConfig_Order as Order } from "@bowline/contract/deployments";
import { Rollout_State, RolloutPolicy_Strategy as Strategy } from "@bowline/contract/stacks";
import { atEnd, freePort, until } from "@bowline/testing";
import { answering, keepAsking } from "./asking.ts";
import { busybox } from "./beside.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";

const hosts = await dockerHosts(["a"]);
const { docker, apply, bowline, containers, down, rolled, runs } = hosts;

/** A service that answers its version, as often as it is to run. */
const web = (version: string, port: number, replicas: number): string =>
  JSON.stringify({
    services: {
      web: {
        ...{ image: busybox, command: answering(version), init: false, stop_signal: "SIGKILL" },
        ports: [`127.0.0.1:${port}:8080`],
        healthcheck: {
          test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"],
          ...{ interval: "1s", timeout: "20s", retries: 5 },
        },
        deploy: { replicas },
      },
    },
  });

test("start first: a client that keeps asking sees the next version and no failed request", async () => {
  const port = await freePort();
  const policy = { order: Order.START_FIRST };
  await apply("first", web("v1", port, 2), policy);
  await runs("first");
  const asking = keepAsking(port);
  await until(() => asking.seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });
  const { rollout } = await apply("first", web("v2", port, 2), policy);
  expect(await rolled(rollout?.id ?? "")).toMatchObject({ state: Rollout_State.SUCCEEDED });
  await until(() => asking.seen.includes("v2"), { withinMs: settledWithinMs, what: "the next version answers" });
  const { seen, failures } = await asking.end();
  expect([seen, failures]).toEqual([["v1", "v2"], []]);
  expect(await containers("first")).toEqual(["web-0 running", "web-1 running"]);
  await down("first");
});

test("canary: one of four new instances serves its share beside the old until it is promoted by hand; no request fails", async () => {
  const port = await freePort();
  const policy = { strategy: Strategy.CANARY, canaryCount: 1 };
  await apply("canary", web("v1", port, 4), policy);
  await runs("canary");
  const asking = keepAsking(port);
  await until(() => asking.seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });
  const { rollout } = await apply("canary", web("v2", port, 4), policy);
  const id = rollout?.id ?? "";
  await rolled(id, ({ awaitsPromotion }) => awaitsPromotion);
  expect(await containers("canary")).toHaveLength(5);
  await until(() => asking.seen.includes("v2"), { withinMs: settledWithinMs, what: "the canary answers" });
  asking.seen.length = 0;
  await until(() => asking.seen.length === 2, { withinMs: settledWithinMs, what: "both answer side by side" });
  expect(await bowline("stack", "rollout", "promote", "canary")).toMatchObject({ code: 0 });
  expect(await rolled(id)).toMatchObject({ state: Rollout_State.SUCCEEDED });
  await runs("canary");
  expect((await containers("canary")).map((line) => line.split(" ")[1])).toEqual(Array(4).fill("running"));
  asking.seen.length = 0;
  await until(() => asking.seen.length > 0, { withinMs: settledWithinMs, what: "it answers" });
  const { seen, failures } = await asking.end();
  expect([seen, failures]).toEqual([["v2"], []]);
  await down("canary");
});

/** Node, as the conformance suite has it. */
const node = "suite/program:1";
const program = fileURLToPath(new URL("../conformance/runtimes/program.js", import.meta.url));

/** Answers each datagram with its version, and is healthy once it listens. */
const datagrams = (version: string, port: number): string => {
  const source = `
    const socket = require("dgram").createSocket("udp4");
    socket.on("message", (_, from) => socket.send("${version}", from.port, from.address));
    socket.bind(9999, () => require("fs").writeFileSync("/tmp/up", ""));
    process.on("SIGTERM", () => process.exit());`;
  const up = 'process.exit(require("fs").existsSync("/tmp/up") ? 0 : 1)';
  return JSON.stringify({
    services: {
      echo: {
        ...{ image: node, command: ["node", "-e", source.replaceAll("$", "$$$$")] },
        ports: [`127.0.0.1:${port}:9999/udp`],
        healthcheck: { test: ["CMD", "node", "-e", up], interval: "1s", timeout: "30s", retries: 20 },
      },
    },
  });
};

/** One question from a port of its own; one that had this number in the last minute may have led to an older version. */
function ask(port: number): Promise<string> {
  const socket = createSocket("udp4");
  return new Promise<string>((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error("no answer")), 30_000);
    socket.once("message", (bytes) => {
      clearTimeout(limit);
      resolve(bytes.toString());
    });
    socket.send("?", port, "127.0.0.1");
  }).finally(() => socket.close());
}

test("blue/green over UDP: each datagram of a client that keeps asking is answered, by the old version and then by the new one", async () => {
  await docker.importNode(node, { "/program.js": program });
  const port = await freePort();
  const policy = { strategy: Strategy.BLUE_GREEN, keepOld: { seconds: 0n } };
  await apply("udp", datagrams("v1", port), policy);
  await runs("udp");
  const seen: string[] = [];
  let ends = false;
  const asking = (async () => {
    while (!ends) {
      const answer = await ask(port);
      if (!seen.includes(answer)) seen.push(answer);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  asking.catch(() => {}); // told where it is awaited
  atEnd(() => void (ends = true));
  await until(() => seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });
  const { rollout } = await apply("udp", datagrams("v2", port), policy);
  expect(await rolled(rollout?.id ?? "")).toMatchObject({ state: Rollout_State.SUCCEEDED });
  await until(() => seen.includes("v2"), { withinMs: settledWithinMs, what: "the next version answers" });
  await until(async () => (await containers("udp")).length === 1, {
    withinMs: settledWithinMs,
    what: "the old version is gone",
  });
  ends = true;
  await asking;
  expect(seen).toEqual(["v1", "v2"]);
  expect(await ask(port)).toBe("v2");
  await down("udp");
});
