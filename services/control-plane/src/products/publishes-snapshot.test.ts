/** A publish and its targets, as they were at one moment. */
import { expect, test } from "@jest/globals";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { openDatabase } from "@bowline/db";
import { databaseProxy, testDatabase } from "@bowline/testing";
import { systemPrincipal } from "../platform/context.ts";
import { readPublishes } from "./publish-queries.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

test("a publish that becomes LIVE while it is read is shown as before or as after, and never half", async () => {
  const database = await testDatabase();
  const { cluster, agent, apply, alpha } = await startPublishing(database.db);
  const clusterId = await cluster("local");
  const one = await agent(clusterId);
  await apply(manifest("hello"));
  const { id } = await alpha.createProductPublish({ productId: "hello", clusterId });
  const proxy = await databaseProxy(database);
  const slow = openDatabase({ address: proxy.url, applicationName: "slow" });
  const trap = proxy.trap({ up: 'from "publish_targets"' });
  const reading = readPublishes(slow.db, systemPrincipal, { ids: [id] });
  const held = await trap.caught; // the publish is read, its targets are not
  await one.workOff();
  held.release();
  const [before] = await reading;
  const [after] = await readPublishes(slow.db, systemPrincipal, { ids: [id] });
  await slow.end();
  expect([before?.state, before?.liveTargets]).toEqual([State.PENDING, 0]);
  expect([after?.state, after?.liveTargets]).toEqual([State.LIVE, 1]);
});
