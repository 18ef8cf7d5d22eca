/** Events and their positions, against a real PostgreSQL. */
import { expect, test } from "@jest/globals";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { placeOlder, placeSets } from "./event-sets.ts";
import { createEvents, type Events, type PlacedEvent, type Topic } from "./events.ts";
import { type Db, transact } from "./transactions.ts";

const quiet = { error: () => {} };

async function start(db: Db): Promise<Events> {
  const events = createEvents(db, quiet);
  const stop = new AbortController();
  const running = events.run(stop.signal);
  atEnd(async () => {
    stop.abort();
    await running;
  });
  return events;
}

/** Everything that a watch is told, until the end of the test. */
function collect(events: Events, topic: Topic, from: number): PlacedEvent[] {
  const seen: PlacedEvent[] = [];
  const stop = new AbortController();
  const following = (async () => {
    for await (const batch of events.follow(topic, from, stop.signal)) seen.push(...batch.events);
  })();
  atEnd(async () => {
    stop.abort();
    await following;
  });
  return seen;
}

const note = (db: Db, events: Events, subjectId: string, topic: Topic = "publish") =>
  transact(db, (work) => events.note(work, [{ topic, subjectId }]));

test("two transactions that commit in the other order are both seen, on both replicas, in one order", async () => {
  const { db } = await testDatabase();
  const [one, two] = [await start(db), await start(db)];
  const from = await one.position();
  const watches = [collect(one, "publish", from), collect(two, "publish", from)];
  let commitFirst: () => void = () => {};
  const held = new Promise<void>((resolve) => (commitFirst = resolve));
  const first = transact(db, async (work) => {
    await one.note(work, [{ topic: "publish", subjectId: "first" }]); // draws the lower number, commits later
    await held;
  });
  await note(db, two, "second");
  await until(() => watches.every((seen) => seen.length === 1), { what: "the second to be seen" });
  commitFirst();
  await first;
  await until(() => watches.every((seen) => seen.length === 2), { what: "the first to be seen" });
  for (const seen of watches) expect(seen.map((event) => event.subjectId)).toEqual(["second", "first"]);
});

test("a watch gets its topic only, and one that resumes gets what it missed", async () => {
  const { db } = await testDatabase();
  const events = await start(db);
  const from = await events.position();
  const seen = collect(events, "publish", from);
  await note(db, events, "a");
  await note(db, events, "agent", "agent");
  await note(db, events, "b");
  await until(() => seen.length === 2, { what: "both publishes" });
  const resumed = collect(events, "publish", await events.positionOf(events.cursorOf(seen[0]?.position ?? 0)));
  const anew = collect(createEvents(db, quiet), "publish", from); // a replica that has nothing in memory
  await until(() => resumed.length === 1 && anew.length === 2, { what: "what was missed" });
  expect(resumed.map((event) => event.subjectId)).toEqual(["b"]);
});

test("nothing is skipped under many commits at once", async () => {
  const { db } = await testDatabase();
  const [one, two] = [await start(db), await start(db)];
  const seen = collect(two, "command", await one.position());
  const ids = Array.from({ length: 300 }, (_, index) => `c${index}`);
  await Promise.all(ids.map((id, index) => note(db, index % 2 === 0 ? one : two, id, "command")));
  await until(() => seen.length >= ids.length, { what: "all of them" });
  expect(seen.map((event) => event.subjectId).toSorted()).toEqual(ids.toSorted());
  const positions = seen.map((event) => event.position);
  expect(positions).toEqual(positions.toSorted((a, b) => a - b));
});

test("a watch that begins before what is remembered, on a topic where nothing happens, reads the table once", async () => {
  const { db } = await testDatabase();
  const one = await start(db);
  const from = await one.position();
  await note(db, one, "publish_1");
  await until(async () => (await one.position()) > from);
  let reads = 0;
  const counted = db.withPlugin({
    transformQuery: ({ node }) => {
      if (JSON.stringify(node).includes("AND topic = ") && JSON.stringify(node).includes('"agent"')) reads += 1;
      return node;
    },
    transformResult: async ({ result }) => result,
  });
  const two = await start(counted); // remembers nothing of before
  const awake = collect(two, "publish", await one.position()); // while nobody watches it remembers nothing at all
  await until(async () => {
    await note(db, one, "publish_2"); // again: it begins after what was there when it looked first
    return two.measured().remembered > 0 && awake.length > 0;
  });
  const seen = collect(two, "agent", from);
  await until(() => reads > 0);
  for (const subjectId of ["publish_3", "publish_4"]) {
    const before = await one.position();
    await note(db, one, subjectId);
    await until(async () => (await one.position()) > before);
  }
  await note(db, one, "agent_1", "agent");
  await until(() => seen.length > 0);
  expect(seen.map(({ subjectId }) => subjectId)).toEqual(["agent_1"]);
  expect(reads).toBe(1);
});

test("what a server of the schema before notes, and places, is seen by a watch of this one", async () => {
  const { db } = await testDatabase();
  const events = await start(db);
  const seen = collect(events, "publish", await events.position());
  const older = (subjectId: string) =>
    sql`INSERT INTO events (topic, subject_id) VALUES ('publish', ${subjectId})`.execute(db);
  await older("left to this one");
  await until(() => seen.length === 1, { what: "what was left to this one" });
  await older("placed there");
  await sql
    .raw(
      `SELECT pg_advisory_xact_lock(7310001);
       UPDATE events SET position = nextval('event_position')
       FROM (SELECT id, created_at FROM events WHERE position IS NULL ORDER BY id LIMIT 1000) AS unplaced
       WHERE events.id = unplaced.id AND events.created_at = unplaced.created_at`,
    )
    .execute(db);
  await note(db, events, "of this one");
  await until(() => seen.length === 3, { what: "all of them" });
  expect(seen.map(({ subjectId }) => subjectId)).toEqual(["left to this one", "placed there", "of this one"]);
});

test("two sequencers at once place each event once, also where one waited for the other", async () => {
  const { db } = await testDatabase();
  const idle = createEvents(db, quiet);
  const ids = Array.from({ length: 120 }, (_, index) => `p${index}`);
  for (const id of ids.slice(0, 60)) await note(db, idle, id);
  for (const id of ids.slice(60))
    await sql`INSERT INTO events (topic, subject_id) VALUES ('publish', ${id})`.execute(db);
  const placing = [placeSets, placeOlder].flatMap((place) => Array.from({ length: 4 }, () => place(db)));
  await Promise.all(placing);
  await placeSets(db); // sets that a statement left, where it was one of a full number
  const { rows } = await sql<{ subject_id: string; position: number | null }>`
    SELECT subject_id, position FROM events ORDER BY position`.execute(db);
  expect(rows.map((row) => row.subject_id).toSorted()).toEqual(ids.toSorted());
  expect(new Set(rows.map((row) => row.position)).size).toBe(ids.length);
});

test("while nobody watches nothing is remembered, and a watch that comes then misses nothing", async () => {
  const { db } = await testDatabase();
  const events = await start(db);
  const from = await events.position();
  await note(db, events, "before it came");
  await until(async () => (await events.position()) > from, { what: "it to be placed" });
  expect(events.measured().remembered).toBe(0);
  const seen = collect(events, "publish", from);
  await note(db, events, "after");
  await until(() => seen.length === 2, { what: "both" });
  expect(seen.map(({ subjectId }) => subjectId)).toEqual(["before it came", "after"]);
});
