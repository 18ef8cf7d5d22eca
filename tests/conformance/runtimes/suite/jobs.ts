import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { until } from "@bowline/testing";
import type { Subject, WorkloadInit } from "./place.ts";

const volumes = [{ name: "data" }];
const mounts = [{ source: { case: "volume" as const, value: "data" }, path: "/data" }];

export function jobTests(subject: () => Subject): void {
  const job = (s: Subject, code: number, rest: WorkloadInit = {}): WorkloadInit => ({
    name: "migrate",
    ...s.place.program("job", "data/runs", String(code)),
    mounts,
    runToCompletion: {},
    ...rest,
  });
  const runs = async (s: Subject): Promise<number> => {
    const path = await s.runtime.volumePath(s.id, "data");
    if (path === undefined) throw new Error("no volume");
    return (await readFile(join(path, "runs"), "utf8").catch(() => "")).split("\n").length - 1;
  };

  test("a job runs to its end, and its exit is observed", async () => {
    const s = subject();
    expect(await s.run([job(s, 0)], { volumes })).toEqual({ kind: "succeeded" });
    expect(await s.instance("migrate")).toMatchObject({ phase: "EXITED", exitCode: 0 });
    expect(await runs(s)).toBe(1);
  });

  test("an ended job is adopted, not run again, also by another agent; a new generation runs it again", async () => {
    const s = subject();
    const spec = s.next([job(s, 0)], { volumes });
    await s.converge(spec);
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    expect(await runs(s)).toBe(1);
    expect(await s.run([job(s, 0)], { volumes })).toEqual({ kind: "succeeded" });
    expect(await runs(s)).toBe(2);
  });

  test("a failed job is tried again as often as it says, and its failure is adopted too", async () => {
    const s = subject();
    const spec = s.next([job(s, 4, { runToCompletion: { retries: 2 } })], { volumes });
    const failed = {
      kind: "failed",
      reason: "START_FAILED",
      worthRetry: false,
      message: expect.stringContaining("exit code 4"),
    };
    expect(await s.converge(spec)).toMatchObject(failed);
    expect(await runs(s)).toBe(3);
    expect(await s.converge(spec)).toMatchObject(failed);
    expect(await runs(s)).toBe(3);
  });

  test("a job that ends while no agent is there has ended, with its exit code", async () => {
    const s = subject();
    const spec = s.next([job(s, 0, s.place.program("run", "data/runs"))], { volumes });
    const ending = s.converge(spec);
    await s.untilInstance("migrate", ({ phase }) => phase === "RUNNING");
    await until(async () => (await runs(s)) === 1);
    await s.runtime.close({ stopWorkloads: false });
    await ending;
    const left = (await s.place.leftovers()).join("\n");
    const pid = Number(/process (\d+) .*program\.js \S+ run/.exec(left)?.[1]);
    process.kill(pid, "SIGKILL"); // the program, not what records its exit
    await until(async () => !(await s.place.leftovers()).join("\n").includes(" run "));
    s.runtime = await s.place.open();
    expect(await s.untilInstance("migrate", ({ phase }) => phase === "EXITED")).toMatchObject({ exitCode: 137 });
  });

  test("a job is stopped at its deadline and has failed", async () => {
    const s = subject();
    const endless = job(s, 0, {
      ...s.place.program("sleep"),
      runToCompletion: { deadline: { seconds: 0n, nanos: 500_000_000 } },
      stopGrace: { seconds: 1n },
    });
    expect(await s.run([endless], { volumes })).toMatchObject({ kind: "failed", reason: "RUN_TIMEOUT" });
    expect((await s.place.leftovers()).join("\n")).not.toContain("program.js");
  });

  test("a paused job goes on where it was", async () => {
    const s = subject();
    const endless = job(s, 0, s.place.program("run", "data/runs"));
    const cancel = new AbortController();
    const first = s.run([endless, { name: "idle", ...s.place.program("sleep") }], { volumes });
    await s.untilInstance("migrate", ({ phase }) => phase === "RUNNING");
    await until(async () => (await runs(s)) === 1);
    void first;
    cancel.abort();
    await s.runtime.close({ stopWorkloads: false });
    await first;
    s.runtime = await s.place.open();
    await s.run([endless, { name: "idle", ...s.place.program("sleep") }], {
      volumes,
      desired: Deployment_Desired.PAUSED,
    });
    expect((await s.instance("migrate"))?.phase).toBe("PAUSED");
    const again = new AbortController();
    const resumed = s.converge(
      s.next([endless, { name: "idle", ...s.place.program("sleep") }], { volumes }),
      again.signal,
    );
    await s.untilInstance("migrate", ({ phase }) => phase === "RUNNING");
    expect(await runs(s)).toBe(1);
    again.abort();
    await resumed;
  });
}
