/** Files of secrets in the host's memory: who writes them, and when again. */
import { chownSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { RestartPolicy } from "@bowline/contract/deployments";
import { ownDocker, temporaryFolder, until } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { besideEngine, busybox, type WorkloadInit } from "./beside.ts";

/** An engine's start, with containers to start, on two busy cores. */
const backWithinMs = 60_000;

/** Fails when it is asked to end. */
const failing = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 1 & wait $!; done"];

const openSecret = (sealed: string): Promise<Uint8Array> => Promise.resolve(Buffer.from(`opened ${sealed}`));
const succeeded = { kind: "succeeded" };
const secretFile = {
  files: [{ name: "key", secret: "password", mode: 0o400 }],
  sealedSecrets: { password: "sealed" },
};

const withSecret = (name: string, more: WorkloadInit = {}): WorkloadInit => ({
  ...{ name, image: busybox, command: failing },
  mounts: [{ path: "/run/secrets/key", source: { case: "file", value: "key" } }],
  ...more,
});

test("containers have their secret files when the host was started anew, whatever their restart policy, and the engine alone starts them again with the same ones", async () => {
  const docker = await ownDocker();
  const { run, containers, exec, reopen } = await besideEngine({ openSecret }, docker);
  const workloads = [withSecret("web"), withSecret("worker", { restartPolicy: RestartPolicy.ON_FAILURE })];
  expect(await run(workloads, secretFile)).toEqual(succeeded);
  const before = await containers();
  const sources: string[] = before.flatMap(({ Mounts }) => Mounts.map(({ Source }: { Source: string }) => Source));
  expect(sources).toHaveLength(2);
  const read = async (): Promise<string[]> =>
    Promise.all((await containers()).map(({ Id }) => exec(Id, "cat", "/run/secrets/key")));
  const runs = async (): Promise<boolean> => (await containers()).every(({ State }) => State.Status === "running");

  // While no agent is there, the engine starts again what ends.
  await reopen(async () => {
    for (const { Id } of before) await exec(Id, "kill", "1");
    const again = async (): Promise<boolean> =>
      (await containers()).every((one) => one.State.Status === "running" && one.RestartCount === 1);
    await until(again, { withinMs: backWithinMs, what: "the engine to start them again" });
    expect(await read()).toEqual(["opened sealed", "opened sealed"]);
  });

  // The host loses its memory; the engine comes first, and cannot start them.
  await reopen(async () => {
    await docker.halt();
    for (const source of sources) rmSync(dirname(source), { recursive: true });
    await docker.start();
    expect(await runs()).toBe(false);
  });
  await until(runs, { withinMs: backWithinMs, what: "the agent to start them" });
  expect(await read()).toEqual(["opened sealed", "opened sealed"]);
  expect((await containers()).map(({ Id }) => Id)).toEqual(before.map(({ Id }) => Id));
  for (const source of sources) {
    expect(readFileSync(source, "utf8")).toBe("opened sealed");
    expect([statSync(source).mode & 0o777, statSync(dirname(dirname(source))).mode & 0o777]).toEqual([0o400, 0o700]);
  }
});

test("a folder in memory that belongs to somebody else is not used", async () => {
  const place = join("/dev/shm", temporaryFolder().split("/").at(-1) ?? "none");
  const theirs = join(place, "bowline");
  mkdirSync(theirs, { recursive: true, mode: 0o777 });
  try {
    chownSync(theirs, 1000, 1000);
    const { run, containers, exec } = await besideEngine({ openSecret, memoryPlaces: [place] });
    expect(await run([withSecret("web")], secretFile)).toEqual(succeeded);
    const [made] = await containers();
    expect(made.Mounts).toEqual([]);
    expect(await exec(made.Id, "cat", "/run/secrets/key")).toBe("opened sealed");
    expect(readdirSync(theirs)).toEqual([]);
  } finally {
    rmSync(place, { recursive: true });
  }
});
