/** Over real files: torn, damaged, compacted, written by many at once. */
import { readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { type DeployResult, DeployResult_Outcome, DeployResultSchema } from "@bowline/contract/agent";
import { temporaryFolder } from "@bowline/testing";
import { journalFile } from "./journal-file.ts";
import { type Journal, type JournalledCommand, openJournal } from "./journal.ts";

function logOf() {
  const warned: object[] = [];
  return { warned, warn: (fields: object) => void warned.push(fields) };
}

function command(number: number, more: Partial<JournalledCommand> = {}): JournalledCommand {
  return {
    commandId: `command_${number}`,
    attempt: 1,
    deploymentId: `deployment_${number}`,
    generation: 1,
    digest: "00",
    productPublishId: "",
    runTimeoutMs: 1_000,
    reduces: false,
    spec: new Uint8Array([number]),
    starts: 0,
    ...more,
  };
}

function result(number: number, attempt = 1): DeployResult {
  const outcome = DeployResult_Outcome.SUCCEEDED;
  return create(DeployResultSchema, { commandId: `command_${number}`, attempt, outcome });
}

/** What a restart would find. */
function contents(journal: Journal) {
  return {
    inFlight: journal.inFlight().map(({ commandId, attempt, starts }) => `${commandId} ${attempt} ${starts}`),
    unacknowledged: journal.unacknowledged().map(({ commandId }) => commandId),
    good: journal.good().map(({ deploymentId, generation }) => `${deploymentId} ${generation}`),
    epoch: journal.number("epoch"),
  };
}

/** Each write, and what the journal holds once it is acknowledged. */
const steps: ((journal: Journal) => Promise<unknown>)[] = [
  (journal) => journal.receive([command(1), command(2)]),
  (journal) => journal.start("command_1"),
  (journal) => journal.setNumber("epoch", 7),
  (journal) =>
    journal.finish(result(1), {
      good: { deploymentId: "deployment_1", generation: 1, digest: "00", spec: new Uint8Array([1]), sinceMs: 5 },
    }),
  (journal) => journal.acknowledge("command_1", 1),
  (journal) => journal.start("command_2"),
  (journal) => journal.drop("command_2"),
];

test("a log that is cut at any byte opens, and has every record that was acknowledged before the cut", async () => {
  const folder = temporaryFolder();
  const path = join(folder, "journal.log");
  const journal = await openJournal(folder, logOf());
  const acknowledged = [{ bytes: readFileSync(path).length, holds: contents(journal) }];
  for (const step of steps) {
    await step(journal);
    acknowledged.push({ bytes: readFileSync(path).length, holds: contents(journal) });
  }
  await journal.close();
  const whole = readFileSync(path);
  const first = acknowledged[0]?.bytes ?? 0;

  for (let cut = first; cut <= whole.length; cut += 1) {
    const log = logOf();
    writeFileSync(path, whole.subarray(0, cut));
    const reopened = await openJournal(folder, log);
    const holds = contents(reopened);
    // The records of one write may be cut apart, so between two acknowledged writes both ends are allowed and what is between.
    const atLeast = acknowledged.findLast(({ bytes }) => bytes <= cut);
    const exact = acknowledged.find(({ bytes }) => bytes === cut);
    if (exact !== undefined) expect(holds).toEqual(exact.holds);
    expect(holds.epoch).toBeGreaterThanOrEqual(atLeast?.holds.epoch ?? 0);
    expect(reopened.id).toBe(journal.id);
    expect(log.warned).toEqual([]); // A torn tail is no damage.
    await reopened.close();
  }
}, 240_000); // some thousand fsyncs

test("bytes that are changed or put in anywhere never keep it from opening, and cost only the lines that they are in", async () => {
  const folder = temporaryFolder();
  const path = join(folder, "journal.log");
  const journal = await openJournal(folder, logOf());
  for (const step of steps.slice(0, 4)) await step(journal);
  await journal.close();
  const whole = readFileSync(path);
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 1), fc.uint8Array({ minLength: 1, maxLength: 40 }), async (at, noise) => {
      writeFileSync(path, Buffer.concat([whole.subarray(0, at), noise, whole.subarray(at)]));
      const reopened = await openJournal(folder, logOf());
      const { good, unacknowledged } = contents(reopened);
      expect(good.length + unacknowledged.length).toBeGreaterThanOrEqual(1); // One line is lost at most.
      await reopened.close();
    }),
    { numRuns: 30 },
  );
});

test("damage before the end is reported", async () => {
  const folder = temporaryFolder();
  const path = join(folder, "journal.log");
  const journal = await openJournal(folder, logOf());
  for (const step of steps) await step(journal);
  await journal.close();
  const lines = readFileSync(path, "utf8").split("\n");
  writeFileSync(path, lines.with(2, "rubbish").join("\n"));
  const log = logOf();
  await (await openJournal(folder, log)).close();
  expect(log.warned).toEqual([{ damaged: 1 }]);
});

test("what was acknowledged while the log is written anew is in the new one", async () => {
  const folder = temporaryFolder();
  const journal = await openJournal(folder, logOf());
  const large = new Uint8Array(1024 * 1024);
  const kept: string[] = [];
  for (let number = 1; number <= 12; number += 1) {
    // Each write alone passes the threshold sooner or later, so that some write is the one that compacts.
    await journal.receive([command(number, { spec: large })]);
    if (number % 3 === 0) kept.push(`command_${number}`);
    else await journal.drop(`command_${number}`);
  }
  const size = readFileSync(join(folder, "journal.log")).length;
  expect(size).toBeLessThan(12 * 1024 * 1024);
  await journal.close();
  const reopened = await openJournal(folder, logOf());
  expect(reopened.inFlight().map(({ commandId }) => commandId)).toEqual(kept);
  await reopened.close();
});

test("many writers share fsyncs, and each finds its record after a restart", async () => {
  const folder = temporaryFolder();
  const journal = await openJournal(folder, logOf());
  await Promise.all(Array.from({ length: 200 }, (_, number) => journal.receive([command(number)])));
  await journal.close();
  const reopened = await openJournal(folder, logOf());
  expect(reopened.inFlight()).toHaveLength(200);
  expect(reopened.counter).toBe(2);
  await reopened.close();
});

test("the highest generation never goes down, and a result is known for seven days", async () => {
  const folder = temporaryFolder();
  let now = 1_000;
  const journal = await openJournal(folder, logOf(), () => now);
  await journal.receive([command(1, { generation: 5, digest: "55" })]);
  await journal.receive([command(1, { generation: 3, digest: "33", attempt: 2 })]);
  expect(journal.highest("deployment_1")).toEqual({ generation: 5, digest: "55" });
  await journal.finish(result(1));
  await journal.acknowledge("command_1", 1);
  await journal.close();
  now += 6 * 86_400_000;
  const soon = await openJournal(folder, logOf(), () => now);
  expect(soon.outcomeOf("command_1", 1)).toBeDefined();
  await soon.close();
  now += 2 * 86_400_000;
  await (await openJournal(folder, logOf(), () => now)).close(); // Leaves it out when it writes the log anew.
  const later = await openJournal(folder, logOf(), () => now);
  expect(later.outcomeOf("command_1", 1)).toBeUndefined();
  expect(later.highest("deployment_1")).toEqual({ generation: 5, digest: "55" });
  await later.close();
});

test("a journal that cannot be written anew leaves nothing open, however often it is tried", async () => {
  const folder = temporaryFolder();
  const file = journalFile(folder);
  await file.replace(["kept\n"]);
  symlinkSync("/dev/full", join(folder, "journal.log.new"));
  for (let times = 0; times < 3; times += 1) await expect(file.replace(["lost\n"])).rejects.toThrow("ENOSPC");
  const open = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // the one that listed them
    }
  });
  expect(open).not.toContain("/dev/full");
  expect(file.read()?.toString()).toBe("kept\n");
  await file.close();
});
