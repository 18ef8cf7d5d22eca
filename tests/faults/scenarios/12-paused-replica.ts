/**
 * A replica stands still in the middle of a claim or of a result, for longer
 * than its lease, while another one takes its agent over; then it goes on. The
 * agent's words to it wait in its socket all the while.
 */
import assert from "node:assert/strict";
import { isPaused, type ScriptedAgent, scriptedResult, type ScriptedSession, type TestServer } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";
import { patient, settledAgent, takesEffect } from "./scripted.ts";

/** A lease, a grace, and the turns of who sweeps; then a transaction that is undone. */
const takenOverWithinMs = 90_000;
const mark = "TOLD_TO_THE_PAUSED_ONE";
const forGood = { failed: mark, worthRetry: false };

export const pausedReplica: Scenario = {
  number: 12,
  title: "a replica paused beyond its lease inside a transaction, then resumed: what it does then counts for nothing",
  tries: ["A", "C", "D", "E", "F"],
  run: (world) =>
    world.together([
      inClaim(world, "claim.before-commit"),
      inClaim(world, "claim.committed"),
      beforeCommitOfResult(world),
      beforeAcknowledgement(world),
    ]),
};

interface Prepared {
  place: Place;
  agent: ScriptedAgent;
  doomed: TestServer;
  /** The agent's session with the replica that is to stand still. */
  old: ScriptedSession;
}

async function prepared(world: World, point: string): Promise<Prepared> {
  const place = await world.place();
  const agent = await settledAgent(place, "first");
  const flags = ["--lease-ms", "3000", "--lease-grace-ms", "3000", "--silence-limit-ms", "300000"]; // nobody is silent here
  const doomed = await world.beside({ flags, env: { BOWLINE_FAULT: `pause:${point}` } });
  return { place, agent, doomed, old: await agent.connect({ url: doomed.url }) };
}

/** Waits until it stands still, and another replica has ended its session. */
async function takenOver(world: World, { place, agent, doomed }: Prepared): Promise<void> {
  await world.within("it stands still", takenOverWithinMs, () => isPaused(doomed.process.pid));
  const from = "the session of a replica that stands still is ended by another one";
  await world.within(from, takenOverWithinMs, async () => (await place.session(agent.agentId)).state === "ENDED");
  assert.equal((await place.session(agent.agentId)).end_reason, "REPLICA_LOST");
}

/** Lets it go on, until it has heard what was said to it and has let the session go. */
async function goesOn({ agent, doomed, old }: Prepared): Promise<void> {
  doomed.resume();
  await old.ended;
  await doomed.operator.registrationToken((await doomed.operator.cluster(agent.cluster)).id); // it serves
}

async function facts(place: Place, command: string) {
  const { state, attempt, failures, bound_epoch: epoch } = await place.row(command);
  return { state, attempt, failures, epoch };
}

const runs = async (world: World, place: Place, command: string): Promise<void> =>
  world.within("it runs", 60_000, async () => (await place.row(command)).state === "RUNNING");

async function inClaim(world: World, point: string): Promise<void> {
  const all = await prepared(world, point);
  const { place, agent, old } = all;
  const { command: commandId } = await place.publish("first");
  world.history.append({ kind: "stale", command: commandId, attempt: 1, mark });
  await world.fault(`paused at ${point}`, async () => {
    await world.within("it stands still", takenOverWithinMs, () => isPaused(all.doomed.process.pid));
    old.send({ case: "deployResult", value: scriptedResult({ commandId, attempt: 1 }, forGood) });
    await takenOver(world, all);
    const session = await agent.connect({ url: place.url });
    const command = await session.nextCommand({ of: commandId, ...patient });
    assert.equal(command.attempt, 1);
    takesEffect(place, agent, await session.receive(command));
    await runs(world, place, commandId);
  });
  const running = { state: "RUNNING", attempt: 1, failures: 0, epoch: agent.session().greeting.epoch };
  await goesOn(all);
  assert.deepEqual(await facts(place, commandId), running);
  assert.equal(await agent.report({ commandId, attempt: 1 }, { succeeded: true }), "RECORDED");
  assert.deepEqual(await facts(place, commandId), { ...running, state: "SUCCEEDED", epoch: null });
}

async function beforeCommitOfResult(world: World): Promise<void> {
  const all = await prepared(world, "results.before-commit");
  const { place, agent, old } = all;
  const { command: commandId } = await place.publish("first");
  const command = await old.nextCommand({ of: commandId, ...patient });
  takesEffect(place, agent, await old.receive(command));
  await runs(world, place, commandId);
  world.history.append({ kind: "stale", command: commandId, attempt: 1, mark });
  const session = await world.fault("paused before the commit of a result", async () => {
    old.send({ case: "deployResult", value: scriptedResult(command, forGood) });
    await takenOver(world, all);
    const opened = await agent.connect({ url: place.url, sync: false });
    const journal = [{ commandId, attempt: 1, phase: "RUNNING" }];
    assert.equal((await opened.sync({ last: true, journal })).decisions.length, 1);
    return opened;
  });
  const running = { state: "RUNNING", attempt: 1, failures: 0, epoch: session.greeting.epoch };
  assert.deepEqual(await facts(place, commandId), running);
  await goesOn(all);
  assert.deepEqual(await facts(place, commandId), running);
  assert.equal(await session.report(command, { succeeded: true }), "RECORDED");
  assert.deepEqual(await facts(place, commandId), { ...running, state: "SUCCEEDED", epoch: null });
}

async function beforeAcknowledgement(world: World): Promise<void> {
  const all = await prepared(world, "results.committed");
  const { place, agent, old } = all;
  const { command: commandId } = await place.publish("first");
  const command = await old.nextCommand({ of: commandId, ...patient });
  takesEffect(place, agent, await old.receive(command));
  const session = await world.fault("paused after the commit of a result", async () => {
    old.send({ case: "deployResult", value: scriptedResult(command, { succeeded: true }) });
    await takenOver(world, all);
    return agent.connect({ url: place.url, sync: false });
  });
  const reply = await session.sync({ last: true, results: [scriptedResult(command, { succeeded: true })] });
  assert.deepEqual(
    reply.results.map((ack) => [ack.commandId, ack.disposition]),
    [[commandId, 2]], // ALREADY_RECORDED
  );
  await goesOn(all);
  world.history.append({ kind: "stale", command: commandId, attempt: 1, mark: "LATE" });
  assert.equal(await session.report(command, { failed: "LATE" }), "ALREADY_RECORDED");
  assert.deepEqual(await facts(place, commandId), { state: "SUCCEEDED", attempt: 1, failures: 0, epoch: null });
}
