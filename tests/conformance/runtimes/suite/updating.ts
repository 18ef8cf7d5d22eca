import { expect, test } from "@jest/globals";
import { healthCheck, server } from "./place.ts";
import type { Subject } from "./place.ts";

export function updatingTests(subject: () => Subject): void {
  test("an update replaces only what changed", async () => {
    const s = subject();
    await s.run([server(s.place), server(s.place, { name: "db" })]);
    const before = { web: (await s.about("web")).run, db: (await s.about("db")).run };
    await s.run([server(s.place, { environment: { VERSION: "2" } }), server(s.place, { name: "db" })]);
    expect((await s.about("db")).run).toBe(before.db);
    const web = await s.about("web");
    expect(web.run).not.toBe(before.web);
    expect(web.env).toMatchObject({ VERSION: "2" });
    expect((await s.observed())?.generation).toBe(2);
    expect((await s.observed())?.instances).toHaveLength(2);
  });

  test("an earlier generation can be brought back", async () => {
    const s = subject();
    const first = s.next([server(s.place, { environment: { VERSION: "1" } })]);
    await s.converge(first);
    await s.run([server(s.place, { environment: { VERSION: "2" } })]);
    expect(await s.converge(first)).toEqual({ kind: "succeeded" });
    expect((await s.about("web")).env).toMatchObject({ VERSION: "1" });
    expect((await s.observed())?.generation).toBe(1);
  });

  test("a changed restart stamp restarts, and nothing else changes", async () => {
    const s = subject();
    await s.run([server(s.place, { restartStamp: "a" })]);
    const { run } = await s.about("web");
    await s.run([server(s.place, { restartStamp: "b" })]);
    expect((await s.about("web")).run).not.toBe(run);
  });

  test("a workload that the new generation lacks is gone", async () => {
    const s = subject();
    await s.run([server(s.place), server(s.place, { name: "old" })]);
    await s.run([server(s.place)]);
    expect((await s.observed())?.instances.map(({ workload }) => workload)).toEqual(["web"]);
    expect(await s.runtime.upstream(s.id, "old", "http")).toBeUndefined();
  });

  test("a smaller count keeps the first instances", async () => {
    const s = subject();
    await s.run([server(s.place, { count: 3 })]);
    const { run } = await s.about("web");
    await s.run([server(s.place, { count: 1 })]);
    expect((await s.about("web")).run).toBe(run);
    expect((await s.observed())?.instances).toHaveLength(1);
  });

  test("an update that never becomes healthy fails, and the last generation serves on without a break", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    const broken = server(s.place, { ...s.place.program("sleep"), healthCheck });
    expect(await s.run([broken])).toMatchObject({
      kind: "failed",
      reason: "UNHEALTHY",
      message: expect.stringContaining("generation 1 runs on"),
    });
    expect((await s.about("web")).run).toBe(run);
    expect(await s.observed()).toMatchObject({ generation: 1, instances: [{ phase: "RUNNING", health: "HEALTHY" }] });
  });

  test("an update that ends at once fails with its output, and the last generation serves on", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    expect(await s.run([server(s.place, s.place.program("exit", "7", "cannot find the flux"))])).toMatchObject({
      kind: "failed",
      reason: "START_FAILED",
      message: expect.stringMatching(/exit code 7.*cannot find the flux.*generation 1 runs on/s),
    });
    expect((await s.about("web")).run).toBe(run);
  });

  test("where a fixed port keeps both from running, a failed update brings the last generation back", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const port = (await s.instance("web"))?.ports[0]?.published;
    await s.absent();
    const ports = [{ name: "http", container: 8080, published: port }];
    await s.run([server(s.place, { ports })]);
    expect(await s.run([server(s.place, { ports, ...s.place.program("exit", "7") })])).toMatchObject({
      kind: "failed",
      reason: "START_FAILED",
      message: expect.stringMatching(/generation 3 runs again \(web had to stop/),
    });
    expect((await s.instance("web"))?.ports[0]?.published).toBe(port);
    expect((await s.about("web")).env["VERSION"]).toBeUndefined();
    await s.run([server(s.place, { ports, environment: { VERSION: "2" } })]);
    expect((await s.about("web")).env).toMatchObject({ VERSION: "2" });
  });

  test("where both would write to one volume, they never run at once", async () => {
    const s = subject();
    const volumes = [{ name: "data" }];
    const mounts = [{ source: { case: "volume" as const, value: "data" }, path: "/data" }];
    await s.run([server(s.place, { mounts })], { volumes });
    const first = (await s.instance("web"))?.ports[0]?.published;
    const seen: number[] = [];
    const done = new AbortController();
    const watching = s.runtime.watch((observed) => {
      seen.push(observed.instances.filter(({ phase }) => phase === "RUNNING").length);
    }, done.signal);
    await s.run([server(s.place, { mounts, environment: { VERSION: "2" } })], { volumes });
    done.abort();
    await watching;
    expect(Math.max(...seen)).toBe(1);
    expect((await s.instance("web"))?.ports[0]?.published).toBe(first);
  });

  test("a cancelled update leaves the last generation", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const { run } = await s.about("web");
    const cancel = new AbortController();
    const slow = server(s.place, { ...s.place.program("sleep"), environment: { VERSION: "2" } });
    const ending = s.converge(s.next([slow]), cancel.signal);
    cancel.abort();
    expect(await ending).toEqual({ kind: "cancelled" });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.observed())?.instances).toHaveLength(1);
  });
}
