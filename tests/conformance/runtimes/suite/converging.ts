import { expect, test } from "@jest/globals";
import type { ConvergeProgress } from "@bowline/agent-core";
import { create } from "@bufbuild/protobuf";
import { Dependency_Condition, DeploymentSchema, RestartPolicy } from "@bowline/contract/deployments";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

export function convergingTests(subject: () => Subject): void {
  test("a workload runs, is healthy and answers at its upstream", async () => {
    const s = subject();
    expect(await s.run([server(s.place, { environment: { COLOUR: "red" } })])).toEqual({ kind: "succeeded" });
    expect(await s.observed()).toMatchObject({
      generation: 1,
      absent: false,
      instances: [{ workload: "web", index: 0, phase: "RUNNING", health: "HEALTHY", restarts: 0 }],
    });
    expect((await s.about("web")).env).toMatchObject({ COLOUR: "red" });
  });

  test("to converge twice is to converge once", async () => {
    const s = subject();
    const spec = s.next([server(s.place)]);
    await s.converge(spec);
    const { run } = await s.about("web");
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.instance("web"))?.restarts).toBe(0);
  });

  test("two converges of one spec at once make one instance", async () => {
    const s = subject();
    const spec = s.next([server(s.place)]);
    expect(await Promise.all([s.converge(spec), s.converge(spec)])).toEqual([
      { kind: "succeeded" },
      { kind: "succeeded" },
    ]);
    expect((await s.observed())?.instances).toHaveLength(1);
  });

  test("a count of three runs three instances, each with a port of its own", async () => {
    const s = subject();
    await s.run([server(s.place, { count: 3 })]);
    const instances = (await s.observed())?.instances ?? [];
    expect(instances.map(({ index, health }) => [index, health])).toEqual([
      [0, "HEALTHY"],
      [1, "HEALTHY"],
      [2, "HEALTHY"],
    ]);
    expect(new Set(instances.map(({ ports }) => ports[0]?.published)).size).toBe(3);
  });

  test("a workload starts after those that it depends on", async () => {
    const s = subject();
    const order: string[] = [];
    const done = new AbortController();
    const watching = s.runtime.watch((observed) => {
      for (const { workload, phase } of observed.instances) {
        if ((phase === "RUNNING" || phase === "EXITED") && !order.includes(workload)) order.push(workload);
      }
    }, done.signal);
    const end = await s.run([
      server(s.place, { dependsOn: [{ workload: "db", condition: Dependency_Condition.HEALTHY }] }),
      server(s.place, { name: "db", dependsOn: [{ workload: "setup", condition: Dependency_Condition.COMPLETED }] }),
      { name: "setup", ...s.place.program("exit", "0"), restartPolicy: RestartPolicy.NEVER },
    ]);
    done.abort();
    await watching;
    expect(end).toEqual({ kind: "succeeded" });
    expect(order).toEqual(["setup", "db", "web"]);
  });

  test("progress names each workload and ends with all of them there", async () => {
    const s = subject();
    const reports: ConvergeProgress[] = [];
    const spec = create(DeploymentSchema, s.next([server(s.place), server(s.place, { name: "other" })]));
    await s.runtime.converge(spec, (progress) => reports.push(progress), new AbortController().signal);
    expect(reports.at(-1)).toMatchObject({ percent: 100 });
    expect(
      reports
        .at(-1)
        ?.workloads.map(({ workload }) => workload)
        .sort(),
    ).toEqual(["other", "web"]);
  });

  test("an aborted converge ends as cancelled and leaves nothing running", async () => {
    const s = subject();
    const cancel = new AbortController();
    const spec = s.next([
      { name: "slow", ...s.place.program("sleep"), runToCompletion: {}, stopGrace: { seconds: 1n } },
    ]);
    const ending = s.converge(spec, cancel.signal);
    await s.untilInstance("slow", ({ phase }) => phase === "RUNNING");
    cancel.abort();
    expect(await ending).toEqual({ kind: "cancelled" });
    expect((await s.instance("slow"))?.phase).not.toBe("RUNNING");
  });

  test("deployments don't disturb each other", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    const spec = { ...s.next([server(s.place)]), id: "deployment_neighbour" };
    await s.converge(spec);
    await s.converge({ id: "deployment_neighbour", generation: 9, desired: 4 });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.runtime.list()).map(({ deploymentId }) => deploymentId)).toEqual([s.id]);
  });
}
