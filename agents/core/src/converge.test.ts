/** How attempts end that nobody can carry out: over a real journal. */
import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { type DeployResult, DeployResult_Outcome } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { type Clock, systemClock } from "@bowline/kernel";
import { atEnd, temporaryFolder, until } from "@bowline/testing";
import { createHash } from "node:crypto";
import { createConverger } from "./converge.ts";
import type { Gateways } from "./gateways.ts";
import { journalFile } from "./journal-file.ts";
import { type JournalledCommand, openJournalFile } from "./journal.ts";
import type { ConvergeEnd, Runtime } from "./runtime.ts";

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

function command(): JournalledCommand {
  const spec = toBinary(
    DeploymentSchema,
    create(DeploymentSchema, { id: "deployment_1", generation: 1, desired: Deployment_Desired.RUNNING }),
  );
  return {
    commandId: "command_1",
    attempt: 1,
    deploymentId: "deployment_1",
    generation: 1,
    digest: createHash("sha256").update(spec).digest("hex"),
    productPublishId: "",
    runTimeoutMs: 60_000,
    reduces: false,
    spec,
    starts: 0,
  };
}

/** Waits of seconds are over at once, those of minutes are as long as they are. */
const impatientClock: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(ms < 10_000 ? 1 : ms, signal),
};

/** A journal with the command in it, and a converger over a scripted runtime. */
async function start(converge: () => Promise<ConvergeEnd>) {
  const disk = { full: false, refused: 0 };
  const file = journalFile(temporaryFolder());
  const onDisk = <T>(write: () => Promise<T>): Promise<T> => {
    if (!disk.full) return write();
    disk.refused += 1;
    return Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
  };
  const journal = await openJournalFile(
    {
      ...file,
      append: (text) => onDisk(() => file.append(text)),
      replace: (lines) => onDisk(() => file.replace(lines)),
    },
    log,
    Date.now,
  );
  atEnd(() => journal.close());
  await journal.receive([command()]);
  let converged = 0;
  const runtime: Pick<Runtime, "converge" | "list"> = {
    converge: () => {
      converged += 1;
      return converge();
    },
    list: async () => [],
  };
  const converger = createConverger({
    runtime: runtime as Runtime,
    gateways: { kindOf: () => "plain" } as Pick<Gateways, "kindOf"> as Gateways,
    journal,
    log,
    clock: impatientClock,
  });
  atEnd(() => converger.stop());
  const run = () =>
    new Promise<DeployResult>((resolve) => {
      converger.listener = { progressed: () => undefined, finished: resolve };
      const [taken] = journal.inFlight();
      if (taken === undefined) throw new Error("the journal is empty");
      converger.run(taken);
    });
  return { journal, disk, run, converged: () => converged, stop: () => converger.stop() };
}

test("an attempt whose agent ended twice is reported AGENT_CRASHED at its third start, and not run", async () => {
  const { journal, run, converged } = await start(async () => ({ kind: "succeeded" }));
  await journal.start("command_1");
  await journal.start("command_1");
  expect(await run()).toMatchObject({
    outcome: DeployResult_Outcome.FAILED,
    reason: "AGENT_CRASHED",
    worthRetry: true,
  });
  expect(converged()).toBe(0);
  expect(journal.unacknowledged()).toHaveLength(1);
  expect(journal.inFlight()).toEqual([]);
});

test("a second start is run", async () => {
  const { journal, run, converged } = await start(async () => ({ kind: "succeeded" }));
  await journal.start("command_1");
  expect(await run()).toMatchObject({ outcome: DeployResult_Outcome.SUCCEEDED });
  expect(converged()).toBe(1);
});

test("what a success says beside is in its result", async () => {
  const remark = { reason: "GATE_INCONCLUSIVE", message: "gate smoke: no answer in time" } as const;
  const { run } = await start(async () => ({ kind: "succeeded", remark }));
  expect(await run()).toMatchObject({ outcome: DeployResult_Outcome.SUCCEEDED, ...remark });
});

test("a runtime that throws is INTERNAL: the attempt ends, the agent goes on", async () => {
  const { run, journal } = await start(() => Promise.reject(new TypeError("a defect")));
  expect(await run()).toMatchObject({ outcome: DeployResult_Outcome.FAILED, reason: "INTERNAL", message: "a defect" });
  expect(journal.inFlight()).toEqual([]);
});

test("a result that a full disk does not take is journalled and told once there is space, without a second start", async () => {
  const { journal, disk, run, converged } = await start(async () => {
    disk.full = true;
    return { kind: "succeeded" };
  });
  const result = run();
  await until(() => disk.refused > 2);
  expect(journal.unacknowledged()).toEqual([]);
  disk.full = false;
  expect(await result).toMatchObject({ outcome: DeployResult_Outcome.SUCCEEDED });
  expect(journal.unacknowledged()).toHaveLength(1);
  expect(journal.inFlight()).toEqual([]);
  expect(converged()).toBe(1);
});

test("a start that a full disk does not take waits for space, and has no effect before", async () => {
  const { disk, run, converged } = await start(async () => ({ kind: "succeeded" }));
  disk.full = true;
  const result = run();
  await until(() => disk.refused > 2);
  expect(converged()).toBe(0);
  disk.full = false;
  expect(await result).toMatchObject({ outcome: DeployResult_Outcome.SUCCEEDED });
});

test("an agent that is stopped while its disk is full leaves the command to its next start", async () => {
  const { journal, disk, run, stop } = await start(async () => ({ kind: "succeeded" }));
  disk.full = true;
  void run();
  await until(() => disk.refused > 2);
  await stop();
  expect(journal.inFlight()).toHaveLength(1);
});
