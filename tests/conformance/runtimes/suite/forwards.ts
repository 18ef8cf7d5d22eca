import { createServer } from "node:net";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "@jest/globals";
import { Deployment_Desired, UpdateConfig_Order } from "@bowline/contract/deployments";
import { atEnd, freePort, until } from "@bowline/testing";
import { server } from "./place.ts";
import type { CrashPoints } from "./surviving.ts";
import type { DeploymentInit, Subject, WorkloadInit } from "./place.ts";

/** For what needs a program to start on a busy machine. */
const patient = { withinMs: 30_000 };

/** Not published by itself: instances of two generations, and of two colours, run beside each other. */
const ports = [{ name: "http", container: 8080 }];
const startFirst = { order: UpdateConfig_Order.START_FIRST };
/** It is over when nobody is connected any more; a request takes long where there is much else to do. */
const drain = { seconds: 10n };

const web = (s: Subject, rest: WorkloadInit = {}): WorkloadInit =>
  server(s.place, { ports, update: startFirst, ...rest });

/** One forward to these workloads, by weight. */
const leading = (weights: Record<string, number>, published = 0): DeploymentInit => ({
  forwards: [
    {
      ...{ name: "http", published, drain },
      backends: Object.entries(weights).map(([workload, weight]) => ({ workload, port: "http", weight })),
    },
  ],
});

/** Where users reach a workload, as it is observed. */
async function published(s: Subject, workload = "web"): Promise<number> {
  const port = (await s.instance(workload))?.ports.find(({ name }) => name === "http");
  expect(port).toMatchObject({ address: s.place.hostAddress });
  return port?.published ?? 0;
}

interface Answer {
  run: string;
  env: Record<string, string>;
}

async function ask(port: number): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${port}/`, {
    headers: { connection: "close" },
    signal: AbortSignal.timeout(patient.withinMs),
  });
  return (await response.json()) as Answer;
}

/** A client that asks again and again. */
function asking(port: number): { answers: Answer[]; stop(): Promise<Answer[]> } {
  const answers: Answer[] = [];
  const failures: unknown[] = [];
  let going = true;
  const asked = (async () => {
    while (going) {
      await ask(port).then(
        (answer) => answers.push(answer),
        (error: unknown) => failures.push(error),
      );
    }
  })();
  return {
    answers,
    async stop() {
      going = false;
      await asked;
      expect(failures).toEqual([]);
      return answers;
    },
  };
}

export function forwardTests(subject: () => Subject, crashPoints: CrashPoints): void {
  test("no request fails while new instances take the place of old ones behind a forward, or an update fails", async () => {
    const s = subject();
    expect(await s.run([web(s)], leading({ web: 1 }))).toEqual({ kind: "succeeded" });
    const port = await published(s);
    const client = asking(port);
    await until(() => client.answers.length > 0, patient);
    expect(await s.run([web(s, { environment: { VERSION: "2" } })], leading({ web: 1 }))).toEqual({
      kind: "succeeded",
    });
    expect((await ask(port)).env).toMatchObject({ VERSION: "2" });
    const broken = web(s, { ...s.place.program("exit", "7"), environment: { VERSION: "3" } });
    expect(await s.run([broken], leading({ web: 1 }))).toMatchObject({
      kind: "failed",
      reason: "START_FAILED",
      message: expect.stringContaining("generation 2 runs on"),
    });
    expect(await published(s)).toBe(port);
    expect(new Set((await client.stop()).map(({ run }) => run)).size).toBe(2);
  });

  test("an old instance ends when its successor is there, before the next ones start; no request fails", async () => {
    const s = subject();
    const update = { ...startFirst, maxParallel: 1 };
    await s.run([web(s, { count: 2, update })], leading({ web: 1 }));
    const port = await published(s);
    const client = asking(port);
    const seen: number[] = [];
    const ends = new AbortController();
    const counted = (async () => {
      while (!ends.signal.aborted) {
        seen.push((await s.place.processes()).length);
        await setTimeout(20);
      }
    })();
    const end = await s.run([web(s, { count: 2, update, environment: { VERSION: "2" } })], leading({ web: 1 }));
    ends.abort();
    await counted;
    expect(end).toEqual({ kind: "succeeded" });
    expect(Math.max(...seen)).toBeLessThan(4);
    const [last] = (await client.stop()).slice(-1);
    expect(last?.env).toMatchObject({ VERSION: "2" });
    expect((await s.observed())?.instances).toHaveLength(2);
  });

  test("what had to end for an update that failed is back, and led to again", async () => {
    const s = subject();
    const update = { order: UpdateConfig_Order.STOP_FIRST };
    await s.run([web(s, { update })], leading({ web: 1 }));
    const port = await published(s);
    await ask(port);
    const broken = web(s, { update, ...s.place.program("exit", "7") });
    expect(await s.run([broken], leading({ web: 1 }))).toMatchObject({
      kind: "failed",
      message: expect.stringContaining("generation 1 runs again"),
    });
    await until(() => ask(port), patient);
  });

  test("a switch changes where a forward leads, and nothing restarts; both by weight, then the other alone", async () => {
    const s = subject();
    const both = [web(s), web(s, { name: "web--green" })];
    await s.run(both, leading({ web: 1 }));
    const [blue, green] = [await s.about("web"), await s.about("web--green")];
    const port = await published(s);
    const client = asking(port);
    await until(() => client.answers.length > 0, patient);
    await s.run(both, leading({ web: 3, "web--green": 1 }));
    await client.stop();
    const runs: string[] = [];
    for (let time = 0; time < 8; time += 1) runs.push((await ask(port)).run);
    expect(runs.filter((run) => run === green.run)).toHaveLength(2);
    await s.run(both, leading({ "web--green": 1 }));
    expect((await ask(port)).run).toBe(green.run);
    expect(await published(s, "web--green")).toBe(port);
    expect((await s.instance("web"))?.ports.some((shown) => shown.published === port)).toBe(false);
    expect([(await s.about("web")).run, (await s.about("web--green")).run]).toEqual([blue.run, green.run]);
  });

  test("a port that an instance has itself is passed on later, and given back", async () => {
    const s = subject();
    const port = await freePort();
    const own = { ports: [{ name: "http", container: 8080, published: port }], update: {} };
    await s.run([web(s, own)]);
    const first = await ask(port);
    await s.run([web(s, { environment: { VERSION: "2" } })], leading({ web: 1 }, port));
    const second = await ask(port);
    expect(second.env).toMatchObject({ VERSION: "2" });
    await s.run([web(s, own)]);
    const third = await ask(port);
    expect(new Set([first.run, second.run, third.run]).size).toBe(3);
  });

  test("forwards that lead nowhere, twice to one place or to a job are refused", async () => {
    const s = subject();
    const job = web(s, { name: "job", runToCompletion: {} });
    const twice = leading({ web: 1 }).forwards?.[0];
    for (const [forwards, workloads] of [
      [leading({ nobody: 1 }).forwards, [web(s)]],
      [leading({}).forwards, [web(s)]],
      [leading({ job: 1 }).forwards, [job]],
      [[{ ...twice, backends: [...(twice?.backends ?? []), { workload: "web", port: "8080" }] }], [web(s)]],
      [[{ ...twice, protocol: "udp" }], [web(s)]],
    ] as [DeploymentInit["forwards"], WorkloadInit[]][])
      expect(await s.run(workloads, { forwards })).toMatchObject({ kind: "failed", reason: "SPEC_INVALID" });
  });

  forwarderTests(subject, crashPoints);
}

/** What depends on how a forwarder is run. */
export function forwarderTests(subject: () => Subject, crashPoints: Pick<CrashPoints, "forwarding">): void {
  test("a forward whose port is somebody else's fails with PORT_TAKEN, and what was goes on", async () => {
    const s = subject();
    const squatter = createServer();
    atEnd(() => void squatter.close());
    await new Promise<void>((resolve) => squatter.listen(0, "0.0.0.0", resolve));
    const taken = (squatter.address() as { port: number }).port;
    await s.run([web(s)], leading({ web: 1 }));
    const port = await published(s);
    const { run } = await ask(port);
    expect(await s.run([web(s, { environment: { VERSION: "2" } })], leading({ web: 1 }, taken))).toMatchObject({
      kind: "failed",
      reason: "PORT_TAKEN",
      message: expect.stringContaining(String(taken)),
    });
    expect((await ask(port)).run).toBe(run);
  });

  test("a stopped deployment closes its ports and opens the same again; without an instance nobody is let in", async () => {
    const s = subject();
    await s.run([web(s)], leading({ web: 1 }));
    const port = await published(s);
    await s.run([web(s)], { ...leading({ web: 1 }), desired: Deployment_Desired.STOPPED });
    await expect(ask(port)).rejects.toThrow();
    await s.run([web(s)], leading({ web: 1 }));
    expect(await published(s)).toBe(port);
    await ask(port);
    await s.run([web(s, { count: 0 })], leading({ web: 1 }));
    await expect(ask(port)).rejects.toThrow();
  });

  test("a forwarder that is killed is started again, and an instance that comes back is led to again", async () => {
    const s = subject();
    await s.run([web(s)], leading({ web: 1 }));
    const port = await published(s);
    await s.place.killForwarder(s.id);
    await until(() => ask(port), patient);
    const { run } = await ask(port);
    await s.killPrograms();
    await until(async () => (await ask(port)).run !== run, patient);
  });

  test("an agent that is killed anywhere in an update leaves what users reach, and the next one ends the same", async () => {
    const s = subject();
    const first = s.next([web(s)], leading({ web: 1 }));
    await s.converge(first);
    const port = await published(s);
    const client = asking(port);
    await until(() => client.answers.length > 0, patient);
    for (const point of crashPoints.forwarding) {
      const next = s.next([web(s, { environment: { VERSION: point } })], leading({ web: 1 }));
      await s.runtime.close({ stopWorkloads: false });
      await s.place.host([next], point);
      s.runtime = await s.place.open();
      expect(await s.converge(next)).toEqual({ kind: "succeeded" });
      expect((await ask(port)).env).toMatchObject({ VERSION: point });
      expect((await s.observed())?.instances).toHaveLength(1);
    }
    await client.stop();
  });
}
