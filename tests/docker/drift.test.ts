/** What people do by hand to containers of ours is seen and, with the next wish, put right; a stranger's things are not touched. */
import { expect, test } from "@jest/globals";
import { atEnd, type TestDocker, until } from "@bowline/testing";
import { besideEngine, busybox, idle, type Beside } from "./beside.ts";

const web = {
  name: "web",
  image: busybox,
  command: idle,
  stopGrace: { seconds: 2n },
  resources: { memoryBytes: 33_554_432n },
};
const seenWithinMs = 30_000;

/** The one instance, once it is seen so. */
async function untilSeen({ runtime }: Beside, wanted: object): Promise<void> {
  await until(
    async () => {
      const instances = (await runtime.list()).flatMap((deployment) => deployment.instances);
      try {
        expect(instances).toMatchObject([wanted]);
        return true;
      } catch {
        return false;
      }
    },
    { withinMs: seenWithinMs, what: `an instance that is ${JSON.stringify(wanted)}` },
  );
}

async function one(beside: Beside): Promise<{ Id: string; NetworkSettings: { Networks: Record<string, unknown> } }> {
  const all = await beside.containers();
  expect(all).toHaveLength(1);
  return all[0];
}

test("a container that was stopped, paused or removed by hand is seen so, and runs again with the next wish", async () => {
  const beside = await besideEngine();
  const { docker, run } = beside;
  expect(await run([web])).toEqual({ kind: "succeeded" });
  const byHand: [phase: string, how: (id: string) => Promise<unknown>][] = [
    ["EXITED", (id) => docker.ask("POST", `/containers/${id}/stop?t=5`)],
    ["PAUSED", (id) => docker.ask("POST", `/containers/${id}/pause`)],
    ["STOPPED", (id) => docker.ask("DELETE", `/containers/${id}?force=1`)],
  ];
  for (const [phase, how] of byHand) {
    await how((await one(beside)).Id);
    await untilSeen(beside, { phase });
    expect(await run([web])).toEqual({ kind: "succeeded" });
    await untilSeen(beside, { phase: "RUNNING" });
    await one(beside);
  }
});

test("a limit that was changed and a network that was left by hand are seen with what differs, and the next wish makes another container", async () => {
  const beside = await besideEngine();
  const { docker, run } = beside;
  expect(await run([web])).toEqual({ kind: "succeeded" });
  await untilSeen(beside, { phase: "RUNNING", reason: "" });
  const first = await one(beside);
  const limits = { Memory: 67_108_864, MemorySwap: 134_217_728 };
  await docker.ask("POST", `/containers/${first.Id}/update`, limits);
  await untilSeen(beside, {
    ...{ phase: "RUNNING", altered: true },
    reason: expect.stringContaining("changed by hand: memory 67108864 instead of 33554432"),
  });
  expect(await run([web])).toEqual({ kind: "succeeded" });
  await untilSeen(beside, { phase: "RUNNING", reason: "" });
  const second = await one(beside);
  expect(second.Id).not.toBe(first.Id);

  const [network = ""] = Object.keys(second.NetworkSettings.Networks);
  await docker.ask("POST", `/networks/${network}/disconnect`, { Container: second.Id });
  await untilSeen(beside, { altered: true, reason: `changed by hand: networks none instead of ${network}` });
  expect(await run([web])).toEqual({ kind: "succeeded" });
  expect((await one(beside)).Id).not.toBe(second.Id);
});

/** What a stranger has on the engine, all of it as it was made. */
async function stranger(docker: TestDocker): Promise<() => Promise<string>> {
  const name = `stranger-${process.pid}`;
  await docker.ask("POST", "/networks/create", { Name: name, Labels: { "bowline.agent": "another", keep: "me" } });
  atEnd(() => docker.ask("DELETE", `/networks/${name}`).then(() => undefined));
  await docker.ask("POST", "/volumes/create", { Name: name, Labels: { "bowline.deployment": "deployment_beside" } });
  atEnd(() => docker.ask("DELETE", `/volumes/${name}`).then(() => undefined));
  const { Id } = (await docker.ask("POST", `/containers/create?name=${name}`, {
    ...{ Image: busybox, Cmd: idle, Labels: { "bowline.deployment": "deployment_beside", "bowline.agent": "another" } },
    HostConfig: { NetworkMode: name, Mounts: [{ Type: "volume", Source: name, Target: "/data" }] },
  })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/containers/${Id}?force=1`).then(() => undefined));
  await docker.ask("POST", `/containers/${Id}/start`);
  return async () =>
    JSON.stringify([
      ((await docker.ask("GET", `/containers/${Id}/json`)) as { State: object }).State,
      await docker.ask("GET", `/networks/${name}`),
      await docker.ask("GET", `/volumes/${name}`),
    ]);
}

test("a stranger's container, network and volume stay as they are, also with labels that look like ours", async () => {
  const beside = await besideEngine();
  const { docker, run, runtime } = beside;
  const looks = await stranger(docker);
  const before = await looks();
  const volumes = [{ name: "data" }];
  const mounts = [{ path: "/data", source: { case: "volume" as const, value: "data" } }];
  expect(await run([{ ...web, mounts }], { volumes })).toEqual({ kind: "succeeded" });
  expect(await run([{ ...web, mounts, environment: { NEW: "1" } }], { volumes })).toEqual({ kind: "succeeded" });
  expect(await run([{ ...web, command: ["/nothing"] }], { volumes })).toMatchObject({ kind: "failed" });
  expect(await run([], { desired: 4, removeVolumes: true })).toEqual({ kind: "succeeded" });
  expect(await runtime.list()).toEqual([]);
  expect(await beside.containers()).toEqual([]);
  expect(await looks()).toBe(before);
});
