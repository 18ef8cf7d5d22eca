/** Data planes and routes, with a scripted gateway class over a real journal. */
import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { DeployResultSchema } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema, type Deployment } from "@bowline/contract/deployments";
import { systemClock } from "@bowline/kernel";
import { atEnd, temporaryFolder } from "@bowline/testing";
import type { AttachedRoutes, DataPlaneClass } from "./dataplane.ts";
import { createGateways } from "./gateways.ts";
import { openJournal } from "./journal.ts";
import { createLog } from "./log.ts";
import type { ConvergeEnd, Runtime } from "./runtime.ts";

const { RUNNING, ABSENT } = Deployment_Desired;
const succeeded: ConvergeEnd = { kind: "succeeded" };
const portTaken: ConvergeEnd = { kind: "failed", reason: "PORT_TAKEN", message: "8081", worthRetry: true };
const never = new AbortController().signal;
const quiet = (): void => {};

function dataPlane(generation: number): Deployment {
  return create(DeploymentSchema, {
    ...{ id: "deployment_dp", generation, desired: RUNNING },
    dataPlane: { gatewayClass: "scripted" },
  });
}

function routes(name: string, generation = 1, desired: Deployment_Desired = RUNNING): Deployment {
  return create(DeploymentSchema, {
    ...{ id: `deployment_${name}`, generation, desired },
    routes: { dataPlaneDeploymentId: "deployment_dp" },
  });
}

async function setUp() {
  const log = createLog({ format: "json", level: "silent" });
  const journal = await openJournal(temporaryFolder(), log);
  atEnd(() => journal.close());
  const said: string[] = [];
  const names = (all: readonly AttachedRoutes[]) =>
    all.map((one) => `${one.deploymentId} ${one.generation}`).join(", ");
  const ways = {
    start: async (_generation: number): Promise<ConvergeEnd> => succeeded,
    apply: async (_next: AttachedRoutes): Promise<ConvergeEnd> => succeeded,
  };
  let running = 0;
  const scripted: DataPlaneClass = {
    name: "scripted",
    compile: (spec) => spec,
    async start(_id, _dataPlane, attached) {
      said.push(`start ${running} with [${names(attached)}]`);
      return await ways.start(running);
    },
    async apply(_id, next) {
      said.push(`apply ${names([next])}`);
      return await ways.apply(next);
    },
    async remove(_id, deploymentId) {
      said.push(`remove ${deploymentId}`);
      return succeeded;
    },
  };
  const runtime = {
    converge: async (spec: Deployment) => {
      running = spec.generation;
      return succeeded;
    },
  } as Partial<Runtime> as Runtime;
  const openSecret = async (sealed: string): Promise<Uint8Array> => Buffer.from(sealed);
  const gateways = createGateways({ runtime, dataPlanes: [scripted], journal, log, clock: systemClock, openSecret });
  /** As the converger does after a success. */
  const keep = async (spec: Deployment): Promise<void> => {
    const good = { deploymentId: spec.id, generation: spec.generation, digest: "", sinceMs: spec.generation };
    const result = create(DeployResultSchema, { commandId: spec.id, attempt: spec.generation });
    await journal.finish(result, { good: { ...good, spec: toBinary(DeploymentSchema, spec) } });
  };
  return { gateways, said, ways, keep };
}

test("routes wait for their data plane and are applied as soon as it has answered", async () => {
  const { gateways, said } = await setUp();
  const applied = gateways.convergeRoutes(routes("a"), quiet, never);
  await gateways.convergeDataPlane(dataPlane(1), quiet, never);
  expect(await applied).toEqual(succeeded);
  expect(said).toEqual(["start 1 with []", "apply deployment_a 1"]);
});

test("routes whose data plane does not come in time fail with DATA_PLANE_NOT_READY, and cancelled ones are cancelled", async () => {
  const { gateways } = await setUp();
  const ending = new AbortController();
  const late = gateways.convergeRoutes(routes("a"), quiet, ending.signal);
  ending.abort("timeout");
  expect(await late).toMatchObject({ reason: "DATA_PLANE_NOT_READY", worthRetry: true });
  const cancelling = new AbortController();
  const cancelled = gateways.convergeRoutes(routes("a"), quiet, cancelling.signal);
  cancelling.abort("cancelled");
  expect(await cancelled).toEqual({ kind: "cancelled" });
});

test("a changed data plane that fails brings the last good one back, and routes go on", async () => {
  const { gateways, said, ways, keep } = await setUp();
  await gateways.convergeDataPlane(dataPlane(1), quiet, never);
  await keep(dataPlane(1));
  ways.start = async (generation) => (generation === 2 ? portTaken : succeeded);
  expect(await gateways.convergeDataPlane(dataPlane(2), quiet, never)).toEqual(portTaken);
  expect(await gateways.convergeRoutes(routes("a"), quiet, never)).toEqual(succeeded);
  expect(said).toEqual(["start 1 with []", "start 2 with []", "start 1 with []", "apply deployment_a 1"]);
});

test("what was applied is attached again, also before its result is in the journal; what was removed is not", async () => {
  const { gateways, said, keep } = await setUp();
  await gateways.convergeDataPlane(dataPlane(1), quiet, never);
  await keep(dataPlane(1));
  for (const name of ["a", "b"]) await gateways.convergeRoutes(routes(name), quiet, never);
  await keep(routes("a"));
  await gateways.convergeRoutes(routes("a", 2), quiet, never);
  await gateways.convergeRoutes(routes("b", 3, ABSENT), quiet, never);
  await gateways.convergeDataPlane(dataPlane(2), quiet, never);
  expect(said.at(-1)).toBe("start 2 with [deployment_a 2]");
});

test("a data plane is changed only when nothing is being applied to it, and nothing is removed meanwhile", async () => {
  const { gateways, said, ways, keep } = await setUp();
  await gateways.convergeDataPlane(dataPlane(1), quiet, never);
  await keep(dataPlane(1));
  let finish: (end: ConvergeEnd) => void = () => {};
  ways.apply = () => new Promise((resolve) => (finish = resolve));
  const applied = gateways.convergeRoutes(routes("a"), quiet, never);
  const changed = gateways.convergeDataPlane(dataPlane(2), quiet, never);
  const removed = gateways.convergeRoutes(routes("b", 2, ABSENT), quiet, never);
  finish(succeeded);
  await Promise.all([applied, changed, removed]);
  expect(said).toEqual([
    "start 1 with []",
    "apply deployment_a 1",
    "start 2 with [deployment_a 1]",
    "remove deployment_b",
  ]);
});

test("a class that throws fails the attempt and not what follows", async () => {
  const { gateways, ways } = await setUp();
  ways.start = () => Promise.reject(new Error("defect"));
  expect(await gateways.convergeDataPlane(dataPlane(1), quiet, never)).toMatchObject({ reason: "INTERNAL" });
  ways.start = async () => succeeded;
  expect(await gateways.convergeDataPlane(dataPlane(1), quiet, never)).toEqual(succeeded);
  expect(await gateways.convergeRoutes(routes("a"), quiet, never)).toEqual(succeeded);
});
