import { toBinary } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { StateReportSchema, type StateReport } from "@bowline/contract/agent";
import { type Clock, systemClock } from "@bowline/kernel";
import { atEnd, temporaryFolder, until } from "@bowline/testing";
import { openJournal, type Journal } from "./journal.ts";
import { createLog } from "./log.ts";
import { createObserver } from "./observe.ts";
import type { ObservedDeployment, ObservedInstance, Runtime } from "./runtime.ts";

const log = createLog({ format: "json", level: "silent" });

/** What is told once more after seconds would come among what is looked at, on a machine that is busy. */
const clock: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(ms < 1_000 ? ms : 3_600_000, signal),
};

function deployment(id: string, instances = 1, ports = 0): ObservedDeployment {
  const instance = (index: number): ObservedInstance => ({
    ...{ workload: "web", index, phase: "RUNNING", health: "HEALTHY", restarts: 0, image: "web", reason: "" },
    ports: Array.from({ length: ports }, (_, port) => ({
      name: `p${port}`,
      container: port,
      address: "127.0.0.1",
      published: port,
    })),
  });
  return {
    deploymentId: id,
    generation: 1,
    absent: false,
    instances: Array.from({ length: instances }, (_, at) => instance(at)),
  };
}

async function observe(journal: Journal, listed: readonly ObservedDeployment[]) {
  let tell: (observed: ObservedDeployment) => void = () => {};
  const runtime = {
    list: async () => listed,
    watch: (changed: typeof tell, signal: AbortSignal) => {
      tell = changed;
      return new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    },
  } as unknown as Runtime;
  const observer = await createObserver({ runtime, journal, log, clock });
  const ending = new AbortController();
  const watching = observer.run(ending.signal);
  const stop = async (): Promise<void> => {
    ending.abort();
    await watching;
  };
  atEnd(stop);
  return { observer, changed: (observed: ObservedDeployment) => tell(observed), stop };
}

async function newJournal(folder = temporaryFolder()): Promise<Journal> {
  const journal = await openJournal(folder, log);
  atEnd(() => journal.close());
  return journal;
}

test("everything is told to each listener, and then what changes, in reports that fit into a message", async () => {
  const many = Array.from({ length: 60 }, (_, number) => deployment(`deployment_${number}`, 20));
  const { observer, changed } = await observe(await newJournal(), [...many, deployment("deployment_large", 1_000, 30)]);
  for (let round = 0; round < 2; round += 1) {
    const reports: StateReport[] = [];
    observer.report((report) => reports.push(report));
    const told = () => reports.flatMap(({ deployments }) => deployments.map(({ deploymentId }) => deploymentId));
    await until(() => new Set(told()).size === 61);
    for (const report of reports) expect(toBinary(StateReportSchema, report).byteLength).toBeLessThan(64 * 1024);
    const numbers = reports.map(({ observation }) => observation);
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
    expect(new Set(numbers).size).toBe(numbers.length);

    const before = reports.length;
    changed({ ...deployment("deployment_3"), absent: round === 1, instances: [] });
    await until(() => reports.length > before);
    expect(reports.at(-1)?.deployments.map(({ deploymentId }) => deploymentId)).toEqual(["deployment_3"]);
  }
});

test("a number is never used twice, over a restart too", async () => {
  const folder = temporaryFolder();
  let highest = 0;
  for (let start = 0; start < 3; start += 1) {
    const journal = await openJournal(folder, log);
    const { observer, stop } = await observe(journal, [deployment("deployment_1")]);
    const reports: StateReport[] = [];
    observer.report((report) => reports.push(report));
    await until(() => reports.length > 0);
    expect(reports[0]?.observation).toBeGreaterThan(highest);
    highest = observer.observation;
    await stop();
    await journal.close();
  }
});

test("of more instances than fit into a report those with a problem are told", async () => {
  const listed = deployment("deployment_1", 150);
  const [bad] = listed.instances.slice(140);
  if (bad !== undefined) Object.assign(bad, { health: "UNHEALTHY", reason: "answers nothing" });
  const { observer } = await observe(await newJournal(), [listed]);
  const reports: StateReport[] = [];
  observer.report((report) => reports.push(report));
  await until(() => reports.length > 0);
  const told = reports[0]?.deployments[0]?.instances ?? [];
  expect(told).toHaveLength(100);
  expect(told[0]).toMatchObject({ index: 140, health: "UNHEALTHY" });
  expect(told.slice(1).map(({ index }) => index)).toEqual(Array.from({ length: 99 }, (_, index) => index));
});
