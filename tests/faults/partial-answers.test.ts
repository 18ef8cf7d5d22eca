/**
 * A server whose answers are empty, cut, or of an older version. Whatever it
 * leaves out: the agent removes nothing, stops nothing, and carries on with the
 * first answer that is whole.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { afterEach, beforeAll, expect, test } from "@jest/globals";
import {
  CommandReceipt_Disposition as Disposition,
  type DeployCommand,
  DeployResult_Outcome,
} from "@bowline/contract/agent";
import { type Deployment, Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import {
  isRunning,
  type ScriptedServer,
  type ServedSession,
  startScriptedServer,
  temporaryFolder,
  until,
} from "@bowline/testing";
import { startAgent } from "../e2e/fixture.ts";

const names = ["one", "two"] as const;
const withinMs = 60_000;

let server: ScriptedServer;
let session: ServedSession;
let pids: number[];
let usual: ScriptedServer["ways"];
const traces = temporaryFolder();
const generations = new Map<string, number>(names.map((name) => [name, 0]));

/** The next generation of a deployment; its workload writes down its pid, and every generation has the same one. */
function spec(name: (typeof names)[number], desired: Deployment_Desired = Deployment_Desired.RUNNING): Deployment {
  const generation = (generations.get(name) ?? 0) + 1;
  generations.set(name, generation);
  return create(DeploymentSchema, {
    id: `deployment_${name}`,
    generation,
    desired,
    workloads: [{ name: "trace", command: ["/bin/sh", "-c", `echo $$ >> ${join(traces, name)}; exec sleep 1000`] }],
  });
}

const started = (name: string): number[] => readFileSync(join(traces, name), "utf8").trim().split("\n").map(Number);

async function succeeds(command: DeployCommand): Promise<void> {
  session.push(command);
  expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
}

/** Fetches of this command that were answered. */
let fetches = 0;
function spoil(change: ScriptedServer["ways"]["fetched"]): void {
  fetches = 0;
  server.ways.fetched = (answer) => {
    fetches += 1;
    return change(answer);
  };
}

beforeAll(async () => {
  server = await startScriptedServer({ heartbeatIntervalMs: 200 });
  usual = { ...server.ways };
  startAgent(server.url, { token: server.token, env: { BOWLINE_STOP_WORKLOADS_ON_EXIT: "1" } });
  session = await server.nextSession();
  for (const name of names) await succeeds(server.command(spec(name)));
  pids = await until(() => {
    const all = names.flatMap((name) => started(name));
    return all.every((pid) => pid > 0) ? all : undefined; // its file may be there before its pid is
  });
}, withinMs);

/** What every case leaves: the same processes, and an agent that takes the next whole answer. */
afterEach(async () => {
  Object.assign(server.ways, usual);
  await succeeds(server.command(spec("one")));
  expect(names.flatMap((name) => started(name))).toEqual(pids);
  expect(pids.every((pid) => isRunning(pid))).toBe(true);
});

test("an empty answer to a fetch, or one that is cut off, costs time only: the command is taken when it is pushed again", async () => {
  const command = server.command(spec("two"));
  spoil(() => ({ deployments: [] }));
  session.push(command);
  await until(() => fetches === 1);
  spoil(() => {
    session.drop(); // in the middle of the answer
    return {};
  });
  await until(() => {
    if (fetches === 0) session.push(command); // as servers do: while the agent still reads the answer, a push says nothing
    return fetches > 0;
  });
  session = await server.nextSession();
  Object.assign(server.ways, usual);
  await succeeds(command);
});

test("an answer with some of the specs: those are taken, the others are asked for again", async () => {
  spoil(({ deployments = [] }) => ({ deployments: fetches === 1 ? deployments.slice(0, 1) : deployments }));
  const commands = names.map((name) => server.command(spec(name)));
  for (const command of commands) session.push(command);
  for (const command of commands) expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
});

test.each([
  ["empty", () => new Uint8Array()],
  ["cut", (bytes: Uint8Array) => bytes.subarray(0, bytes.length / 2)],
  ["with a byte too many", (bytes: Uint8Array) => new Uint8Array([...bytes, 0])],
])("a spec that came %s is refused, and nothing of it is carried out", async (_, change) => {
  spoil(({ deployments = [] }) => ({
    deployments: deployments.map((one) => ({ ...one, spec: change(one.spec as Uint8Array) })),
  }));
  const command = server.command(spec("two"));
  session.push(command);
  expect(await session.receipt(command)).toMatchObject({ disposition: Disposition.REJECTED, reason: "SPEC_INVALID" });
});

test.each([
  ["does not say what is desired", Deployment_Desired.DESIRED_UNSPECIFIED, "SPEC_INVALID"],
  ["desires what this agent does not know", 99 as Deployment_Desired, "UNSUPPORTED"],
])("a spec that %s is no removal", async (_, desired, reason) => {
  const command = server.command(spec("two", desired));
  session.push(command);
  const result = await session.result(command);
  expect(result).toMatchObject({ outcome: DeployResult_Outcome.FAILED, reason });
});

test("a server that knows nothing of what runs, and answers Sync with nothing, ends nothing", async () => {
  server.ways.synced = () => ({ last: true });
  session.drop();
  session = await server.nextSession();
  const told = session.sync.flatMap(({ deployments }) => deployments.map(({ deploymentId }) => deploymentId));
  expect(told.toSorted()).toEqual(["deployment_one", "deployment_two"]);
  await until(() => session.received.some(({ case: kind }) => kind === "stateReport"), { withinMs });
});

test("a server that leaves out all that newer ones say is served with the protocol's defaults", async () => {
  server.ways.greeted = ({ sessionId = "", epoch = 0, accessToken = "" }) => ({ sessionId, epoch, accessToken });
  session.drop();
  session = await server.nextSession();
  await succeeds(server.command(spec("two")));
  const beats = session.received.filter(({ case: kind }) => kind === "heartbeat");
  expect(beats.length).toBeLessThan(10); // an interval of 0 is none
});
