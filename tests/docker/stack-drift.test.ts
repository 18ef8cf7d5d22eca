/** What people do to a stack's containers by hand: seen, shown, and put right where the cluster's policy says so. */
import { expect, test } from "@jest/globals";
import { ClusterPolicy_DriftRepair as Repair } from "@bowline/contract/clusters";
import type { Stack } from "@bowline/contract/stacks";
import { until } from "@bowline/testing";
import { busybox, idle } from "./beside.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";

const { docker, api, bowline, clusterId, apply, containers, running, runs, reaches, down } = await dockerHosts(["a"]);

const text = JSON.stringify({
  services: { web: { image: busybox, command: idle, mem_limit: "32m", deploy: { replicas: 2 } } },
});

const drifted = ({ conditions }: Stack): boolean => conditions.includes("DRIFTED");

/** What a command of people prints. */
async function printed(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await bowline(...args);
  if (code !== 0) throw new Error(stderr);
  return stdout;
}

test("a container that was changed or removed by hand is drift: shown with what differs, left alone, and put right once the policy says so", async () => {
  await apply("shop", text);
  const { state } = await runs("shop");
  const before = await running("shop");
  const [first = "", second = ""] = before;
  const rollouts = await printed("stack", "events", "shop", "--quiet");

  const limits = { Memory: 67_108_864, MemorySwap: 134_217_728 };
  await docker.ask("POST", `/containers/${first}/update`, limits);
  await reaches("shop", state, drifted);
  expect(await printed("stack", "ps", "shop")).toMatch(
    /^a +web \d +running, changed by hand: memory 67108864 instead of 33554432/m,
  );
  await docker.ask("DELETE", `/containers/${second}?force=1`);
  await until(async () => /web \d +stopped/.test(await printed("stack", "ps", "shop")), {
    withinMs: settledWithinMs,
    what: "the removed one is shown",
  });
  expect(await printed("stack", "events", "shop")).toMatch(
    /apply r1 by .*\nnow  DRIFTED\n  a  web  (?=.*changed by hand: memory 67108864)(?=.*stopped)/,
  );
  // Nobody has repaired anything.
  expect(await running("shop")).toEqual([first]);
  const { commands } = await api.commands.listCommands({ stack: "shop" });
  expect(commands).toHaveLength(1);
  expect(drifted(await api.stacks.getStack({ id: "shop" }))).toBe(true);

  await api.clusters.updateCluster({
    cluster: { id: clusterId, policy: { driftRepair: Repair.REPAIR } },
    updateMask: { paths: ["policy"] },
  });
  const asWanted = async (but: readonly string[]): Promise<string[] | undefined> => {
    const all = await containers("shop");
    const now = await running("shop");
    return all.join() === "web-0 running,web-1 running" && !now.some((id) => but.includes(id)) ? now : undefined;
  };
  const repaired = await until(() => asWanted(before), { withinMs: settledWithinMs, what: "both are made anew" });
  await runs("shop");
  expect(await printed("stack", "ps", "shop")).not.toContain("changed by hand");
  expect(await printed("stack", "events", "shop")).toMatch(
    /apply r1 by [^\n]*\n[^\n]*repair of drift at a: SUCCEEDED {2}command_\w+\n(?!now)/,
  );

  await docker.ask("DELETE", `/containers/${repaired[0]}?force=1`);
  const again = await until(() => asWanted(repaired.slice(0, 1)), {
    withinMs: settledWithinMs,
    what: "it is made again",
  });
  expect(again).toContain(repaired[1]);
  await runs("shop");
  // No rollout: what is wanted is what it was.
  expect(await printed("stack", "events", "shop", "--quiet")).toBe(rollouts);
  await down("shop");
});
