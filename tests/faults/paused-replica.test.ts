/**
 * A replica stands still in the middle of a claim or of a result, for longer
 * than its lease, while another one takes its agent over; then it goes on. The
 * agent's words to it wait in its socket all the while.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { Command_State as State } from "@bowline/contract/commands";
import {
  isPaused,
  type ScriptedAgent,
  scriptedResult,
  type ScriptedSession,
  startServer,
  type TestServer,
  until,
} from "@bowline/testing";

/** Production: 15 s and 30 s. A transaction that stands still is undone after the lease, or 5 s here. */
const flags = [
  ...["--lease-ms", "1500", "--lease-grace-ms", "3000"],
  ...["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "300000"], // nobody is silent here
];
const within = { withinMs: 90_000 };
const succeeded = { succeeded: true } as const;
const forGood = { failed: "TOLD_TO_THE_PAUSED_ONE", worthRetry: false };

let other: TestServer;

beforeAll(async () => {
  other = await startServer({ flags });
});

/** An agent that has its data plane, and is on a replica that is to stand still at `point`. */
async function prepared(point: string): Promise<{ doomed: TestServer; agent: ScriptedAgent; old: ScriptedSession }> {
  const agent = await other.scriptedAgent({ cluster: point.replace(".", "-") });
  await other.operator.publish("first", { to: agent.cluster });
  for (let count = 0; count < 2; count += 1) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    expect(await agent.report(command, succeeded)).toBe("RECORDED");
  }
  const doomed = await startServer({ beside: other, flags, env: { BOWLINE_FAULT: `pause:${point}` } });
  return { doomed, agent, old: await agent.connect({ url: doomed.url }) };
}

const rowOf = (commandId: string) =>
  other.database.db
    .selectFrom("command_states")
    .select(["state", "attempt", "failures", "bound_epoch"])
    .where("command_id", "=", commandId)
    .executeTakeFirstOrThrow();

/** Waits until the other replica has ended the session of the one that stands still. */
async function takenOver({ agentId }: ScriptedAgent): Promise<void> {
  const row = await until(async () => {
    const { db } = other.database;
    const found = await db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();
    return found.state === "ENDED" && found;
  }, within);
  expect(row.end_reason).toBe("REPLICA_LOST");
}

/** Lets it go on, until it has heard what was said to it and has let the session go. */
async function goesOn(doomed: TestServer, old: ScriptedSession): Promise<void> {
  doomed.resume();
  await old.ended;
  await doomed.operator.cluster("somewhere"); // it serves
}

test.each(["claim.before-commit", "claim.committed"])(
  "paused at %s for longer than its lease, a replica has claimed for nobody: its push and what is said to it count no more",
  async (point) => {
    const { doomed, agent, old } = await prepared(point);
    const publish = await other.operator.publish("second", { to: agent.cluster });
    const commandId = publish.targets[0]?.commandId ?? "";
    await until(() => isPaused(doomed.process.pid), within);
    const about = { commandId, attempt: 1 };
    old.send({ case: "deployResult", value: scriptedResult(about, forGood) });
    await takenOver(agent);

    const session = await agent.connect({ url: other.url });
    const command = await session.nextCommand({ of: commandId, ...within });
    expect(command.attempt).toBe(1);
    await session.receive(command);
    await until(async () => (await rowOf(commandId)).state === "RUNNING", within);
    const running = { state: "RUNNING", attempt: 1, failures: 0, bound_epoch: session.greeting.epoch };
    await goesOn(doomed, old);
    expect(await rowOf(commandId)).toEqual(running);
    expect(await session.report(command, succeeded)).toBe("RECORDED");
    expect(await other.operator.command(commandId)).toMatchObject({ state: State.SUCCEEDED, attempt: 1, failures: 0 });
    expect(await rowOf(commandId)).toMatchObject({ attempt: 1 });
  },
);

test("paused before the commit of a result for longer than its lease, a replica has recorded nothing: the agent's word to another one is the first", async () => {
  const { doomed, agent, old } = await prepared("results.before-commit");
  const publish = await other.operator.publish("second", { to: agent.cluster });
  const commandId = publish.targets[0]?.commandId ?? "";
  const command = await old.nextCommand({ of: commandId });
  await old.receive(command);
  await until(async () => (await rowOf(commandId)).state === "RUNNING", within);
  old.send({ case: "deployResult", value: scriptedResult(command, forGood) });
  await until(() => isPaused(doomed.process.pid), within);
  await takenOver(agent);

  const session = await agent.connect({ url: other.url, sync: false });
  const journal = [{ commandId, attempt: 1, phase: "RUNNING" }];
  expect((await session.sync({ last: true, journal })).decisions).toHaveLength(1);
  const running = { state: "RUNNING", attempt: 1, failures: 0, bound_epoch: session.greeting.epoch };
  expect(await rowOf(commandId)).toEqual(running);
  await goesOn(doomed, old);
  expect(await rowOf(commandId)).toEqual(running);
  expect(await session.report(command, succeeded)).toBe("RECORDED");
  expect(await other.operator.command(commandId)).toMatchObject({ state: State.SUCCEEDED, attempt: 1, failures: 0 });
});

test("paused after the commit of a result and before its acknowledgement, a replica has recorded it once; the agent hears so from another one", async () => {
  const { doomed, agent, old } = await prepared("results.committed");
  const publish = await other.operator.publish("second", { to: agent.cluster });
  const commandId = publish.targets[0]?.commandId ?? "";
  const command = await old.nextCommand({ of: commandId });
  await old.receive(command);
  old.send({ case: "deployResult", value: scriptedResult(command, succeeded) });
  await until(() => isPaused(doomed.process.pid), within);
  await takenOver(agent);

  const session = await agent.connect({ url: other.url, sync: false });
  const results = [scriptedResult(command, succeeded)];
  const reply = await session.sync({ last: true, results });
  expect(reply.results).toMatchObject([{ commandId, disposition: 2 }]);
  await goesOn(doomed, old);
  expect(await session.report(command, { failed: "LATE" })).toBe("ALREADY_RECORDED");
  expect(await other.operator.command(commandId)).toMatchObject({ state: State.SUCCEEDED, attempt: 1, failures: 0 });
});
