/** The agent's own disk has no space left: before a command, in the middle of one, and when the agent is to start. */
import assert from "node:assert/strict";
import type { TestServer } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import { type SmallDisk, smallDisk } from "../world/small-disk.ts";
import type { Host } from "../world/hosts.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

/** Above what an agent wants to be free before it takes anything (16 MiB), and little more. */
const diskBytes = 20 * 1024 * 1024;
const nearlyFull = 1024 * 1024;
/** Their results are more than what the journal's last page has left, once the disk is full. */
const productsAtOnce = 8;
/** Of production: 15 s. A heartbeat tells that there is space again. */
const flags = ["--heartbeat-interval-ms", "1000"];
const recoversWithinMs = 60_000;

export const diskFull: Scenario = {
  number: 27,
  title:
    "an agent's disk full: nothing new begins, removals do, what was done is told once there is space, and nothing is done twice",
  tries: ["A", "B", "C", "F", "H", "I"],
  async run(world) {
    const replica = await world.beside({ flags });
    await world.together([before(world, replica), inTheMiddle(world, replica), atTheStart(world, replica)]);
  },
};

interface OnDisk {
  place: Place;
  host: Host;
  disk: SmallDisk;
}

async function onSmallDisk(world: World, { url }: TestServer): Promise<OnDisk> {
  const disk = await smallDisk(diskBytes);
  const place = await world.place();
  const host = await place.host({ url, dataDir: disk.folder });
  await place.publish("first");
  await place.settled();
  return { place, host, disk };
}

async function succeeded(place: Place, command: string, failures = 0): Promise<void> {
  const row = await place.row(command);
  assert.deepEqual([row.state, row.failures], ["SUCCEEDED", failures]);
}

async function before(world: World, replica: TestServer): Promise<void> {
  const { place, disk } = await onSmallDisk(world, replica);
  const second = await place.publish("second");
  await place.settled();
  const waiting = await world.fault("the disk is nearly full", async () => {
    disk.fill(nearlyFull);
    const answer = await place.publish("first");
    const refused = async () => (await place.row(answer.command)).reason === "DISK_FULL";
    await world.within("the command says that the disk is full", recoversWithinMs, refused);
    const { command } = (await place.unpublish(second.id)).commands[0] ?? {};
    const removed = async () => (await place.row(command ?? "")).state === "SUCCEEDED";
    await world.within("a removal is carried out nevertheless", recoversWithinMs, removed);
    assert.notEqual((await place.row(answer.command)).state, "RUNNING");
    disk.free();
    return answer;
  });
  await place.settled(recoversWithinMs);
  await succeeded(place, waiting.command);
}

async function inTheMiddle(world: World, replica: TestServer): Promise<void> {
  const { place, host, disk } = await onSmallDisk(world, replica);
  const products = Array.from({ length: productsAtOnce }, (_, at) => `at-once-${at}`);
  const since = host.ledger().length;
  const count = (what: string) => host.ledger().filter((line, at) => at >= since && line.what === what).length;
  host.behave({ held: true });
  const published = await world.fault("the disk fills up under commands", async () => {
    const answers = await Promise.all(products.map((product) => place.publish(product)));
    await world.within("all are under way", recoversWithinMs, () => count("begun") === productsAtOnce);
    disk.fill(0);
    host.behave({});
    await world.within("all have their effect", recoversWithinMs, () => count("ended") === productsAtOnce);
    await host.process.untilLine(/ENOSPC/, { withinMs: recoversWithinMs });
    disk.free();
    return answers;
  });
  await place.settled(recoversWithinMs);
  for (const { command } of published) await succeeded(place, command);
  assert.equal(count("begun"), productsAtOnce); // none was started again
}

async function atTheStart(world: World, replica: TestServer): Promise<void> {
  const { place, host, disk } = await onSmallDisk(world, replica);
  const { epoch } = await place.session(await host.agentId());
  const again = await world.fault("the disk is full when the agent starts", async () => {
    disk.fill(0);
    await host.kill();
    const { code } = await host.again().process.ended;
    assert.equal(code, 1); // whoever supervises it starts it again
    disk.free();
    return host.again();
  });
  await place.serving(await again.agentId(), { above: epoch, boundMs: recoversWithinMs });
  const next = await place.publish("first");
  await place.settled(recoversWithinMs);
  await succeeded(place, next.command);
}
