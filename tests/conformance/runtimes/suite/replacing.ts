import { expect, test } from "@jest/globals";
import { UpdateConfig_Order } from "@bowline/contract/deployments";
import { freePort } from "@bowline/testing";
import { server, type Subject } from "./place.ts";

export function replacingTests(subject: () => Subject): void {
  test("where the old end first, the next goes when the one before was healthy for the delay; changed settings alone restart nothing", async () => {
    const s = subject();
    const update = { order: UpdateConfig_Order.STOP_FIRST, maxParallel: 1, delay: { seconds: 0n, nanos: 200_000_000 } };
    await s.run([server(s.place, { count: 2 })]);
    const { run } = await s.about("web");
    await s.run([server(s.place, { count: 2, update })]);
    expect((await s.about("web")).run).toBe(run);
    expect(await s.run([server(s.place, { count: 2, update, environment: { VERSION: "2" } })])).toEqual({
      kind: "succeeded",
    });
    const started = [await s.instance("web", 0), await s.instance("web", 1)].map((one) => Number(one?.startedAt));
    expect((started[1] ?? 0) - (started[0] ?? 0)).toBeGreaterThan(200);
    expect((await s.about("web")).env).toMatchObject({ VERSION: "2" });
    expect((await s.observed())?.instances).toHaveLength(2);
  });

  test("while one is replaced, the one that takes its place is seen as soon as the old one has ended", async () => {
    const s = subject();
    const update = { order: UpdateConfig_Order.STOP_FIRST, maxParallel: 1, delay: { seconds: 0n, nanos: 500_000_000 } };
    await s.run([server(s.place, { count: 2, update })]);
    const old = [await s.instance("web", 0), await s.instance("web", 1)].map((one) => Number(one?.startedAt));
    const halves: string[] = [];
    const done = new AbortController();
    const watching = s.runtime.watch(({ deploymentId, instances }) => {
      const [first, second] = instances;
      const isHalf = Number(first?.startedAt) > (old[0] ?? 0) && Number(second?.startedAt) === old[1];
      if (deploymentId === s.id && isHalf) halves.push(`${first?.phase} ${first?.health}`);
    }, done.signal);
    await s.run([server(s.place, { count: 2, update, environment: { VERSION: "2" } })]);
    done.abort();
    await watching;
    expect(halves).toContain("RUNNING HEALTHY");
  });

  test("what is to start first and has a port of the host itself is refused before anything ends", async () => {
    const s = subject();
    const ports = [{ name: "http", container: 8080, published: await freePort() }];
    const update = { order: UpdateConfig_Order.START_FIRST };
    await s.run([server(s.place, { ports, update })]);
    const { run } = await s.about("web");
    expect(await s.run([server(s.place, { ports, update, restartStamp: "a" })])).toMatchObject({
      kind: "failed",
      reason: "UNSUPPORTED",
    });
    expect((await s.about("web")).run).toBe(run);
  });
}
