/** An agent that is there and reads nothing, one whose connection neither end knows to be dead, and one on a slow line. */
import assert from "node:assert/strict";
import { isPaused, startTcpProxy, type TestServer, until } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

/** Of production: 15 s and 45 s. */
const flags = ["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "4000"];
/** Of the slow line, where silence is to end nothing: not that of a busy machine either. */
const patient = ["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "12000"];
/** A spec takes seconds, and heartbeats wait behind what the line has to carry. */
const slowBytesPerSecond = 500;
/** The silence limit, and the turns of who looks. */
const noticedWithinMs = 60_000;

export const halfOpen: Scenario = {
  number: 4,
  title:
    "an agent that never reads, or is gone without a word: its session ends in time, and nothing of it is lost; on a slow line it stays",
  tries: ["A", "B", "C", "E", "F"],
  async run(world) {
    const [replica, slow] = await Promise.all([world.beside({ flags }), world.beside({ flags: patient })]);
    await world.together([neverReads(world, replica), goneWithoutAWord(world, replica), slowLine(world, slow)]);
  },
};

async function neverReads(world: World, { url }: TestServer): Promise<void> {
  const place = await world.place();
  const host = await place.host({ url });
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(agentId);
  const published = await world.fault("the agent stands still", async () => {
    host.process.kill("SIGSTOP");
    await until(() => isPaused(host.process.pid), { what: "the agent stands still" });
    const answer = await place.publish("first");
    const ended = async () => (await place.session(agentId)).state === "ENDED";
    await world.within("the session of an agent that says nothing ends", noticedWithinMs, ended);
    host.process.kill("SIGCONT");
    return answer;
  });
  await place.serving(agentId, { above: epoch });
  await place.settled();
  const { state, attempt, failures } = await place.row(published.command);
  assert.deepEqual([state, attempt, failures], ["SUCCEEDED", 1, 0]);
}

/** A host that has converged something once and dials through a proxy. */
async function behindProxy(world: World, { url }: TestServer) {
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(url).port) });
  const place = await world.place();
  const host = await place.host({ url: `http://${proxy.host}:${proxy.port}` });
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(agentId);
  return { proxy, place, host, agentId, epoch };
}

async function goneWithoutAWord(world: World, replica: TestServer): Promise<void> {
  const { proxy, place, host, agentId, epoch } = await behindProxy(world, replica);
  const published = await world.fault("the host is gone, its connection is not", async () => {
    proxy.hold(); // nobody hears that it ends
    await host.kill();
    const answer = await place.publish("first");
    host.again({ url: replica.url }); // it is back before anybody has noticed
    await place.serving(agentId, { above: epoch });
    return answer;
  });
  await place.settled();
  const { state, attempt, failures } = await place.row(published.command);
  assert.deepEqual([state, attempt, failures], ["SUCCEEDED", 1, 0]);
}

async function slowLine(world: World, replica: TestServer): Promise<void> {
  const { proxy, place, agentId, epoch } = await behindProxy(world, replica);
  const published = await world.fault("the line is slow", async () => {
    proxy.throttle(slowBytesPerSecond);
    const answers = await Promise.all(["first", "second", "third"].map((product) => place.publish(product)));
    await place.settled();
    return answers;
  });
  for (const { command } of published) {
    const { state, attempt, failures } = await place.row(command);
    assert.deepEqual([state, attempt, failures], ["SUCCEEDED", 1, 0]);
  }
  assert.equal((await place.session(agentId)).epoch, epoch);
}
