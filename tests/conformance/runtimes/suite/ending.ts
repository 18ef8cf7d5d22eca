import { expect, test } from "@jest/globals";
import { until } from "@bowline/testing";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

const programs = async (s: Subject): Promise<number> =>
  (await s.place.leftovers()).filter((left) => left.includes("program.js")).length;

export function endingTests(subject: () => Subject): void {
  test("a workload that ignores the stop signal is killed after its grace", async () => {
    const s = subject();
    await s.run([server(s.place, { ...s.place.program("stubborn"), stopGrace: { seconds: 1n } })]);
    const startMs = performance.now();
    expect(await s.absent()).toEqual({ kind: "succeeded" });
    const tookMs = performance.now() - startMs;
    expect(tookMs).toBeGreaterThan(900);
    expect(tookMs).toBeLessThan(8_000);
    expect(await programs(s)).toBe(0);
  });

  for (const how of ["child", "session"]) {
    test(`a ${how === "child" ? "child" : "child with a session of its own"} ends with its instance`, async () => {
      const s = subject();
      await s.run([server(s.place)]);
      await s.order("web", `breed?how=${how}`);
      expect(await programs(s)).toBe(2);
      await s.absent();
      expect(await programs(s)).toBe(0);
    });
  }

  test("many children end with their instance, also those without its environment", async () => {
    const s = subject();
    await s.run([server(s.place, { stopGrace: { seconds: 2n } })]);
    for (let child = 0; child < 10; child += 1)
      await s.order("web", `breed?how=${child % 2 === 0 ? "bare" : "session"}`);
    expect(await programs(s)).toBe(11);
    await s.absent();
    expect(await programs(s)).toBe(0);
  });

  test("what an ended instance left behind is gone before it starts again", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", "breed?how=child");
    await s.order("web", "exit?code=1");
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
    expect(await programs(s)).toBe(1);
  });

  test("children of an instance that an earlier agent started end with it", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", "breed?how=session");
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    await s.absent();
    await until(async () => (await programs(s)) === 0);
  });

  test("the stop signal of the spec is the one that is sent", async () => {
    const s = subject();
    // SIGTERM would be ignored; SIGINT ends it at once.
    await s.run([
      server(s.place, { ...s.place.program("stubborn"), stopSignal: "SIGINT", stopGrace: { seconds: 30n } }),
    ]);
    const startMs = performance.now();
    await s.absent();
    expect(performance.now() - startMs).toBeLessThan(10_000);
  });
}
