/** How attempts end that nobody can carry out: over a real journal. */
import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { type DeployResult, DeployResult_Outcome } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { systemClock } from "@bowline/kernel";
import { atEnd, temporaryFolder } from "@bowline/testing";
import { createHash } from "node:crypto";
import { createConverger } from "./converge.ts";
import type { Gateways } from "./gateways.ts";
import { type JournalledCommand, openJournal } from "./journal.ts";
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

/** A journal with the command in it, and a converger over a scripted runtime. */
async function start(converge: () => Promise<ConvergeEnd>) {
  const journal = await openJournal(temporaryFolder(), log);
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
    clock: systemClock,
  });
  atEnd(() => converger.stop());
  const run = () =>
    new Promise<DeployResult>((resolve) => {
      converger.listener = { progressed: () => undefined, finished: resolve };
      const [taken] = journal.inFlight();
      if (taken === undefined) throw new Error("the journal is empty");
      converger.run(taken);
    });
  return { journal, run, converged: () => converged };
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

test("a runtime that throws is INTERNAL: the attempt ends, the agent goes on", async () => {
  const { run, journal } = await start(() => Promise.reject(new TypeError("a defect")));
  expect(await run()).toMatchObject({ outcome: DeployResult_Outcome.FAILED, reason: "INTERNAL", message: "a defect" });
  expect(journal.inFlight()).toEqual([]);
});
