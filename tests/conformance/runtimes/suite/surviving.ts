import { expect, test } from "@jest/globals";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { freePort as unusedPort } from "@bowline/testing";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

/** Where a runtime of this kind can be made to die, see libs/kernel/src/faults.ts. */
export interface CrashPoints {
  /** Between the intent to start an instance and its record. */
  starting: readonly string[];
  /** In an update of one instance by another, from its start to the old one's end. */
  updating: readonly string[];
  /** While a deployment is removed. */
  removing: readonly string[];
  /** In an update of one instance by another behind a forward. */
  forwarding: readonly string[];
}

export function survivingTests(subject: () => Subject, crashPoints: CrashPoints): void {
  test("an instance outlives its killed agent and is adopted by the next one", async () => {
    const s = subject();
    const spec = s.next([server(s.place)]);
    await s.runtime.close({ stopWorkloads: false });
    const host = await s.place.host([spec]);
    expect(host.end).toEqual({ kind: "succeeded" });
    await host.kill();

    s.runtime = await s.place.open();
    const { run } = await s.about("web");
    await s.untilInstance("web", ({ health }) => health === "HEALTHY");
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.observed())?.instances).toMatchObject([{ phase: "RUNNING", restarts: 0 }]);
  });

  for (const point of crashPoints.starting) {
    test(`an agent that dies at ${point} does not double the instance, which has its files`, async () => {
      const s = subject();
      const mounts = [{ source: { case: "file" as const, value: "settings" }, path: "/etc/settings.json" }];
      const files = [{ name: "settings", content: Buffer.from("whole") }];
      const spec = s.next([server(s.place, { mounts })], { files });
      await s.runtime.close({ stopWorkloads: false });
      await s.place.host([spec], point);

      s.runtime = await s.place.open();
      expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
      expect((await s.observed())?.instances).toHaveLength(1);
      expect(await s.order("web", "load?file=etc/settings.json")).toBe("whole");
      await s.absent();
      expect(await s.place.leftovers()).toEqual([]);
    });
  }

  for (const point of crashPoints.updating) {
    test(`an agent that dies at ${point} of an update leaves one that can be finished, or taken back`, async () => {
      const s = subject();
      const port = await unusedPort();
      const ports = [{ name: "http", container: 8080, published: port }];
      const [first, second] = [1, 2].map((version) =>
        s.next([
          server(s.place, { ports, environment: { VERSION: String(version) } }),
          server(s.place, { name: "beside", environment: { VERSION: String(version) } }),
        ]),
      );
      const third = s.next([server(s.place, { ports, environment: { VERSION: "3" } })]);
      await s.runtime.close({ stopWorkloads: false });
      await s.place.host([first!, second!], point);

      s.runtime = await s.place.open();
      expect(await s.converge(second!)).toEqual({ kind: "succeeded" });
      expect((await s.about("web")).env).toMatchObject({ VERSION: "2" });
      expect((await s.about("beside")).env).toMatchObject({ VERSION: "2" });
      expect((await s.place.leftovers()).filter((left) => left.includes("program.js"))).toHaveLength(2);
      expect(await s.converge(third)).toEqual({ kind: "succeeded" });
      expect((await s.place.leftovers()).filter((left) => left.includes("program.js"))).toHaveLength(1);
    });
  }

  for (const point of crashPoints.removing) {
    test(`a removal whose agent dies at ${point} is finished by the next one`, async () => {
      const s = subject();
      const spec = s.next([server(s.place)]);
      const absent = s.next([], { desired: Deployment_Desired.ABSENT });
      await s.runtime.close({ stopWorkloads: false });
      await s.place.host([spec, absent], point);

      s.runtime = await s.place.open();
      expect(await s.converge(absent)).toEqual({ kind: "succeeded" });
      expect(await s.place.leftovers()).toEqual([]);
    });
  }

  test("an instance that ends while no agent is there is started by the next one", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    await s.runtime.close({ stopWorkloads: false });
    await s.killPrograms();
    s.runtime = await s.place.open();
    await s.untilInstance("web", ({ phase, health }) => phase === "RUNNING" && health === "HEALTHY");
    expect((await s.about("web")).run).not.toBe(run);
  });

  test("an adopted instance is watched: when it ends, it is started again", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    await s.killPrograms();
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
  });

  test("an agent that stops its workloads on exit starts them again later", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.runtime.close({ stopWorkloads: true });
    expect(await s.place.processes()).toEqual([]);
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
