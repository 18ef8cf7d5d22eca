import { createServer } from "node:net";
import { expect, test } from "@jest/globals";
import { Dependency_Condition } from "@bowline/contract/deployments";
import { atEnd } from "@bowline/testing";
import { server } from "./place.ts";
import type { DeploymentInit, Subject, WorkloadInit } from "./place.ts";

export function refusingTests(subject: () => Subject): void {
  test("a fixed port that another program has is PORT_TAKEN, naming the port", async () => {
    const s = subject();
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    atEnd(() => new Promise((resolve) => other.close(() => resolve())));
    const { port } = other.address() as { port: number };
    const ports = [{ name: "http", container: 8080, published: port }];
    expect(await s.run([server(s.place, { ports })])).toMatchObject({
      kind: "failed",
      reason: "PORT_TAKEN",
      message: expect.stringContaining(String(port)),
      worthRetry: true,
    });
  });

  test("a port that the runtime chose stays the same over restarts of instance and agent", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const port = (await s.instance("web"))?.ports[0]?.published;
    await s.order("web", "exit?code=1");
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
    await s.runtime.close({ stopWorkloads: true });
    s.runtime = await s.place.open();
    await s.untilInstance("web", ({ health }) => health === "HEALTHY");
    expect((await s.instance("web"))?.ports).toEqual([
      { name: "http", container: 8080, address: s.place.hostAddress, published: port },
    ]);
    expect(await s.runtime.upstream(s.id, "web", "8080")).toEqual({ host: "127.0.0.1", port });
    expect(await s.runtime.upstream(s.id, "web", "other")).toBeUndefined();
  });

  const wrong: [string, string, (s: Subject) => { workloads: WorkloadInit[]; rest?: DeploymentInit }][] = [
    [
      "IMAGE_UNAVAILABLE",
      "a program that is not there",
      (s) => ({
        workloads: [{ name: "web", ...s.place.program("serve"), command: ["no-such-program-anywhere"] }],
      }),
    ],
    [
      "SPEC_INVALID",
      "a circle of dependencies",
      (s) => ({
        workloads: [
          server(s.place, { dependsOn: [{ workload: "db" }] }),
          server(s.place, { name: "db", dependsOn: [{ workload: "web" }] }),
        ],
      }),
    ],
    [
      "SPEC_INVALID",
      "a dependency on nothing",
      (s) => ({ workloads: [server(s.place, { dependsOn: [{ workload: "db" }] })] }),
    ],
    ["SPEC_INVALID", "two workloads of one name", (s) => ({ workloads: [server(s.place), server(s.place)] })],
    [
      "SPEC_INVALID",
      "a mount of a volume that is not there",
      (s) => ({
        workloads: [server(s.place, { mounts: [{ source: { case: "volume", value: "data" }, path: "/data" }] })],
      }),
    ],
    [
      "SPEC_INVALID",
      "a mount outside of the instance",
      (s) => ({
        workloads: [server(s.place, { mounts: [{ source: { case: "volume", value: "data" }, path: "/../../data" }] })],
        rest: { volumes: [{ name: "data" }] },
      }),
    ],
    [
      "SPEC_INVALID",
      "a volume whose name is a path",
      (s) => ({ workloads: [server(s.place)], rest: { volumes: [{ name: "../data" }] } }),
    ],
    [
      "DEPENDENCY_FAILED",
      "a wait for the end of what never ends",
      (s) => ({
        workloads: [
          server(s.place, { dependsOn: [{ workload: "db", condition: Dependency_Condition.COMPLETED }] }),
          server(s.place, { name: "db" }),
        ],
      }),
    ],
  ];
  for (const [reason, what, make] of wrong) {
    test(`${what} is ${reason}, and nothing is changed`, async () => {
      const s = subject();
      await s.run([server(s.place)]);
      const { run } = await s.about("web");
      const { workloads, rest } = make(s);
      expect(await s.run(workloads, rest)).toMatchObject({ kind: "failed", reason, worthRetry: false });
      expect((await s.about("web")).run).toBe(run);
      expect((await s.observed())?.instances).toHaveLength(1);
    });
  }

  test("a second runtime in one place is refused", async () => {
    await expect(subject().place.open()).rejects.toMatchObject({ reason: "DATA_DIR_IN_USE" });
  });
}
