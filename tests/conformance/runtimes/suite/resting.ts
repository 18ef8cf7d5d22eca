import { expect, test } from "@jest/globals";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { until } from "@bowline/testing";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

/** What is frozen never answers: a longer wait would not say more. */
const noAnswerMs = 500;

const { ABSENT, PAUSED, RUNNING, STOPPED } = Deployment_Desired;

export function restingTests(subject: () => Subject): void {
  test("STOPPED: nothing runs, the definition stays, and RUNNING brings it back", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    expect(await s.run([server(s.place)], { desired: STOPPED })).toEqual({ kind: "succeeded" });
    expect(await s.place.processes()).toEqual([]);
    expect(await s.observed()).toMatchObject({ generation: 2, absent: false, instances: [{ phase: "STOPPED" }] });
    expect(await s.run([server(s.place)], { desired: RUNNING })).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).run).not.toBe(run);
  });

  test("PAUSED: the process is frozen with its memory, and RUNNING goes on with it", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    expect(await s.run([server(s.place)], { desired: PAUSED })).toEqual({ kind: "succeeded" });
    expect((await s.instance("web"))?.phase).toBe("PAUSED");
    await expect(s.ask("web", "/", "GET", noAnswerMs)).rejects.toThrow();
    expect(await s.run([server(s.place)])).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.instance("web"))?.restarts).toBe(0);
  });

  test("a paused deployment can be stopped and removed", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.run([server(s.place)], { desired: PAUSED });
    expect(await s.run([server(s.place)], { desired: STOPPED })).toEqual({ kind: "succeeded" });
    await s.run([server(s.place)]);
    await s.run([server(s.place)], { desired: PAUSED });
    expect(await s.absent()).toEqual({ kind: "succeeded" });
  });

  test("ABSENT: nothing is left, and watchers are told", async () => {
    const s = subject();
    await s.run([server(s.place, { count: 2 })]);
    const done = new AbortController();
    const absences: string[] = [];
    const watching = s.runtime.watch(({ deploymentId, absent }) => absent && absences.push(deploymentId), done.signal);
    expect(await s.absent()).toEqual({ kind: "succeeded" });
    await until(() => absences.length > 0);
    done.abort();
    await watching;
    expect(absences).toEqual([s.id]);
    expect(await s.observed()).toBeUndefined();
    expect(await s.place.leftovers()).toEqual([]);
  });

  test("ABSENT twice, or of what never was, succeeds", async () => {
    const s = subject();
    expect(await s.absent()).toEqual({ kind: "succeeded" });
    expect(await s.absent()).toEqual({ kind: "succeeded" });
  });

  test("a failed first generation leaves nothing running, and ABSENT removes it", async () => {
    const s = subject();
    const end = await s.run([server(s.place), server(s.place, { name: "bad", ...s.place.program("exit", "1") })]);
    expect(end).toMatchObject({
      kind: "failed",
      reason: "START_FAILED",
      message: expect.stringContaining("nothing of this deployment runs"),
    });
    expect((await s.observed())?.instances.filter(({ phase }) => phase === "RUNNING")).toEqual([]);
    expect(await s.converge({ id: s.id, generation: 2, desired: ABSENT })).toEqual({ kind: "succeeded" });
    expect(await s.place.leftovers()).toEqual([]);
  });

  test("a failed resume leaves a stopped deployment stopped", async () => {
    const s = subject();
    await s.run([server(s.place)], { desired: STOPPED });
    await s.run([server(s.place), server(s.place, { name: "bad", ...s.place.program("exit", "1") })]);
    expect(await s.observed()).toMatchObject({ generation: 1, instances: [{ workload: "web", phase: "STOPPED" }] });
  });
}
