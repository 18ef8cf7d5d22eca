/** The report says what was, and whether that is as it should be. */
import { expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome, ResultAck_Disposition as Ack } from "@bowline/contract/agent";
import { createLedger, createTimes, type Fleet } from "@bowline/testing/fleet";
import type { Load } from "./load.ts";
import { readOptions } from "./options.ts";
import { type Facts, type Report, reportOf, textOf } from "./report.ts";
import { createView, linesOf } from "./view.ts";

function fleetOf(agents: number): Fleet {
  const nothing = async (): Promise<void> => undefined;
  const ledger = createLedger();
  const [enrolmentTimes, beats] = [createTimes(), createTimes()];
  for (let agent = 0; agent < agents; agent += 1) {
    enrolmentTimes.add(20);
    ledger.effect(`c${agent}`, 1);
    ledger.carried(Outcome.SUCCEEDED);
    ledger.answered(`c${agent}`, 1, Ack.RECORDED);
  }
  const phases = { waiting: 0, dialling: 0, greeting: 0, syncing: 0, serving: agents, stopped: 0 };
  return {
    ...{ enrolled: nothing(), enrolments: () => agents, enrolmentTimes, phases, ledger, beats },
    ...{ pushes: () => agents, troubles: new Map([["UNAVAILABLE", 2]]), clusterId: () => "cluster_1" },
    ...{ misbehave: () => undefined, misbehaviours: () => [], stop: nothing },
  };
}

function loadOf(unfinished: number, refused = 0): Load {
  const times = createTimes();
  times.add(100);
  const nothing = async (): Promise<void> => undefined;
  const counts = { made: 1 + unfinished, live: 1, failed: 0, refused, leftOut: 0 };
  return { counts, times, errors: new Map(), open: () => unfinished, publish: nothing, watch: nothing, clean: nothing };
}

const factsOf = (more: Partial<Facts> = {}): Facts => ({
  options: readOptions(["--agents", "2", "--seed", "42"], { BOWLINE_TOKEN: "bwa_secret" }),
  machine: "2 × test",
  startedAt: new Date(0),
  ...{ enrolMs: 1_000, loadMs: 2_000, fleet: fleetOf(2), serving: 2, load: loadOf(0) },
  check: { compared: true, commands: 2, byState: { SUCCEEDED: 2 }, violations: [] },
  server: { memoryMb: 300, memoryMbBefore: 200, databaseMemoryMb: 100, cpu: 0.5, databaseCpu: 0.25 },
  simulator: { memoryMb: 150, memoryMbBefore: 100, cpu: 0.1 },
  interrupted: false,
  ...more,
});

test("a run in order has no failures; the report has the seed, the settings without secrets, and one result per id", () => {
  const report = reportOf(factsOf());
  expect(report).toMatchObject({
    ...{ seed: 42, machine: "2 × test", failures: [], agents: { enrolled: 2, serving: 2 }, errors: { UNAVAILABLE: 2 } },
    commands: { commands: 2, recorded: 2, unanswered: 0, perSecond: 1 },
    publishes: { made: 1, live: 1, unfinished: 0, toLive: { count: 1, maxMs: 100 } },
  });
  const json = JSON.stringify(report);
  expect((JSON.parse(json) as Report).settings).toMatchObject({ agents: 2, server: "its own" });
  expect(json).not.toContain("secret");
  const text = textOf(report);
  expect(text).toMatch(/one result per id\s+yes, of 2 commands/);
  expect(text).toMatch(/51200 KiB per agent/);
  expect(text).toMatch(/All as it should be\.\n$/);
});

test("a doubled result, an agent that has not enrolled, and a publish that was refused or did not become LIVE are failures", () => {
  const violations = ["c1 attempt 1 was recorded 2 times"];
  const check = { compared: true, commands: 2, byState: {}, violations };
  const report = reportOf(factsOf({ check, fleet: fleetOf(1), load: loadOf(3, 1) }));
  expect(report.failures).toEqual([
    "1 violations, the first: c1 attempt 1 was recorded 2 times",
    "1 agents have not enrolled",
    "3 publishes did not become LIVE in time",
    "1 publishes were refused; the errors say why",
  ]);
  expect(textOf(report)).toMatch(/one result per id\s+NO: c1 attempt 1/);
});

test("what a person cut short is no failure, a doubled result in it is", () => {
  expect(reportOf(factsOf({ fleet: fleetOf(1), load: loadOf(3), interrupted: true })).failures).toEqual([]);
  const check = { compared: true, commands: 2, byState: {}, violations: ["c1 twice"] };
  expect(reportOf(factsOf({ check, interrupted: true })).failures).toHaveLength(1);
});

test("without a terminal the view writes plain lines, with one it draws a block anew", () => {
  const seen = { step: "load", fleet: fleetOf(2), load: loadOf(1), agents: 2, server: { memoryMb: 300, cpu: 0.5 } };
  expect(linesOf(seen, 12).join("\n")).toMatch(/2 of 2 enrolled, 2 connected, 2 serving/);
  const written: string[] = [];
  const out = { write: (text: string) => written.push(text) } as unknown as NodeJS.WritableStream &
    typeof process.stderr;
  const plain = createView(out, false);
  plain.show(seen);
  plain.show(seen); // too soon after the first
  expect(written).toHaveLength(1);
  expect(written[0]).not.toContain("\u001b");
  written.length = 0;
  const moving = createView(out, true);
  moving.show(seen);
  moving.show(seen);
  expect(written.join("")).toContain("\u001b[6A\u001b[J");
});
