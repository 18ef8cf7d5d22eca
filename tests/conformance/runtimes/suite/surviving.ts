import { expect, test } from "@jest/globals";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

/** Crash points of a runtime between the intent to start an instance and its record. */
export type CrashPoints = readonly string[];

export function survivingTests(subject: () => Subject, crashPoints: CrashPoints): void {
  test("an instance outlives its killed agent and is adopted by the next one", async () => {
    const s = subject();
    const spec = s.next([server(s.place)]);
    await s.runtime.close({ stopWorkloads: false });
    const host = await s.place.host(spec);
    expect(host.end).toEqual({ kind: "succeeded" });
    await host.kill();

    s.runtime = await s.place.open();
    const { pid } = await s.about("web");
    await s.untilInstance("web", ({ health }) => health === "HEALTHY");
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).pid).toBe(pid);
    expect((await s.observed())?.instances).toMatchObject([{ phase: "RUNNING", restarts: 0 }]);
  });

  for (const point of crashPoints) {
    test(`an agent that dies at ${point} does not double the instance`, async () => {
      const s = subject();
      const spec = s.next([server(s.place)]);
      await s.runtime.close({ stopWorkloads: false });
      await s.place.host(spec, point);

      s.runtime = await s.place.open();
      expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
      expect((await s.observed())?.instances).toHaveLength(1);
      await s.absent();
      expect(await s.place.leftovers()).toEqual([]);
    });
  }

  test("an instance that ends while no agent is there is started by the next one", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { pid } = await s.about("web");
    await s.runtime.close({ stopWorkloads: false });
    process.kill(pid, "SIGKILL");
    s.runtime = await s.place.open();
    await s.untilInstance("web", ({ phase, health }) => phase === "RUNNING" && health === "HEALTHY");
    expect((await s.about("web")).pid).not.toBe(pid);
  });

  test("an adopted instance is watched: when it ends, it is started again", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    const { pid } = await s.about("web");
    process.kill(pid, "SIGKILL");
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
  });

  test("an agent that stops its workloads on exit starts them again later", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { pid } = await s.about("web");
    await s.runtime.close({ stopWorkloads: true });
    expect(() => process.kill(pid, 0)).toThrow();
    s.runtime = await s.place.open();
    await s.untilInstance("web", ({ health }) => health === "HEALTHY");
  });

  test("what was stopped or paused is so after a restart of the agent", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.run([server(s.place)], { desired: Deployment_Desired.PAUSED });
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    expect((await s.instance("web"))?.phase).toBe("PAUSED");
    await s.run([server(s.place)], { desired: Deployment_Desired.STOPPED });
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    expect((await s.instance("web"))?.phase).toBe("STOPPED");
  });

  test("the identity is the same after a restart of the agent", async () => {
    const s = subject();
    const { identity } = await s.runtime.describe();
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    expect((await s.runtime.describe()).identity).toBe(identity);
  });
}
