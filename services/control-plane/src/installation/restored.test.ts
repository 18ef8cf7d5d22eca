/** What another history of the database begins with, against a real PostgreSQL. */
import { expect, test } from "@jest/globals";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { createEvents, type Events } from "../platform/events.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { markRestored } from "./restored.ts";

const quiet = { error: () => {} };

async function installed(): Promise<{ db: Db; events: Events }> {
  const { db } = await testDatabase();
  await db.insertInto("installation").values({ id: "inst_1" }).execute();
  const events = createEvents(db, quiet);
  const stop = new AbortController();
  const running = events.run(stop.signal);
  atEnd(async () => {
    stop.abort();
    await running;
  });
  return { db, events };
}

async function placed(db: Db, events: Events, count: number): Promise<number> {
  const before = await events.position();
  for (let index = 0; index < count; index += 1)
    await transact(db, (work) => events.note(work, [{ topic: "publish", subjectId: `publish_${index}` }]));
  return until(async () => ((await events.position()) >= before + count ? events.position() : undefined));
}

test("each incarnation is above the one before, also of the same minute, and holds dispatch", async () => {
  const { db, events } = await installed();
  const first = await markRestored(db, events);
  const second = await markRestored(db, events);
  expect(first.incarnation).toBeGreaterThan(first.from);
  expect(second).toMatchObject({ from: first.incarnation, incarnation: first.incarnation + 1 });
  const { dispatch_held_at: held } = await db.selectFrom("installation").selectAll().executeTakeFirstOrThrow();
  expect(held).toBeInstanceOf(Date);
});

test("a cursor of a lost history is CURSOR_EXPIRED, also when the new one has had more events; a new cursor is not", async () => {
  const { db, events } = await installed();
  await placed(db, events, 2);
  const lost = events.cursorOf((await events.position()) + 1); // of an event that the restored database never had
  await markRestored(db, events);
  await placed(db, events, 5);
  await expect(events.positionOf(lost)).rejects.toMatchObject({ reason: "CURSOR_EXPIRED" });
  const position = await events.position();
  const cursor = events.cursorOf(position);
  expect(await events.positionOf(cursor)).toBe(position);
  await markRestored(db, events);
  await expect(events.positionOf(cursor)).rejects.toMatchObject({ reason: "CURSOR_EXPIRED" });
});
