/** An agent's disk comes back older than it was, or without the journal. What it made still stands. */
import assert from "node:assert/strict";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

export const journalLost: Scenario = {
  number: 29,
  title:
    "an agent's disk restored from a snapshot, or without its journal: what it forgot comes again, and has no second effect",
  tries: ["A", "B", "C", "E", "H", "I"],
  run: (world) => world.together([restored(world), withoutJournal(world)]),
};

async function restored(world: World): Promise<void> {
  const place = await world.place();
  const host = await place.host();
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const snapshot = temporaryFolder();
  cpSync(host.dataDir, snapshot, { recursive: true });
  await place.publish("first");
  await place.publish("second"); // the snapshot has never heard of it
  await place.settled();
  const { epoch } = await place.session(agentId);
  const before = host.standing();
  const again = await world.fault("the disk is an older one", async () => {
    await host.kill();
    rmSync(host.dataDir, { recursive: true });
    cpSync(snapshot, host.dataDir, { recursive: true });
    return host.again();
  });
  await place.serving(agentId, { above: epoch });
  await place.settled();
  await world.within(
    "the forgotten is known again",
    60_000,
    async () => (await lostAndSentAgain(place, agentId)) === 2,
  );
  await place.settled();
  assert.equal(again.standing().size, before.size);
  const last = await place.publish("first");
  await place.settled();
  assert.equal((await place.row(last.command)).state, "SUCCEEDED");
}

async function withoutJournal(world: World): Promise<void> {
  const place = await world.place();
  const host = await place.host();
  await place.publish("first");
  await place.settled();
  await host.kill();
  const crashing = host.again({ env: { BOWLINE_FAULT: "converge.effect" } });
  const published = await place.publish("first");
  const again = await world.fault("the journal is gone", async () => {
    assert.equal((await crashing.process.ended).signal, "SIGKILL");
    rmSync(join(host.dataDir, "journal.log"));
    return host.again();
  });
  await place.settled();
  const { state } = await place.row(published.command);
  assert.equal(state, "SUCCEEDED");
  assert.equal(again.standing().get(published.commands[0]?.deployment ?? "")?.generation, 2);
}

/** Commands that were made because the agent's Sync did not name what is recorded as done. */
async function lostAndSentAgain({ db }: Place, agentId: string): Promise<number> {
  const made = db.selectFrom("commands").select("id").where("agent_id", "=", agentId);
  return (await made.where("created_by", "=", "lost-journal").execute()).length;
}
