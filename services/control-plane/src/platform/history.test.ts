/** Upkeep of history against a real PostgreSQL: partitions, retention, the floor of cursors. */
import { expect, test } from "@jest/globals";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { createEvents } from "./events.ts";
import { createHistory, type HistoryDeed } from "./history.ts";
import { alone } from "./partitions.ts";
import { type Db, transact } from "./transactions.ts";

const hourMs = 3_600_000;
const quiet = { error: () => {}, warn: () => {} };

function history(db: Db, retention: { eventsMs?: number } = {}, failed: string[] = []) {
  const did = new Map<HistoryDeed, number>();
  const parts = {
    ...{ db, steps: [] },
    settings: {
      everyMs: 1_000,
      eventsMs: 24 * hourMs,
      commandsMs: 720 * hourMs,
      auditMs: 8_760 * hourMs,
      ...retention,
    },
    log: { warn: (fields: object) => void failed.push(JSON.stringify(fields)) },
    did: (deed: HistoryDeed, count: number) => void did.set(deed, (did.get(deed) ?? 0) + count),
  };
  const made = createHistory(parts);
  /** Turns until one gives nothing up: what places events, or PostgreSQL itself, may hold a table for longer than a turn waits. */
  const turned = () =>
    until(async () => {
      failed.length = 0;
      await made.turn();
      return failed.length === 0;
    });
  return { ...made, did, turned };
}

async function partitions(db: Db, table: string): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    SELECT c.relname AS name FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass(${table}) ORDER BY c.relname`.execute(db);
  return rows.map(({ name }) => name);
}

async function start() {
  const { db, open } = await testDatabase();
  const events = createEvents(db, quiet);
  const stop = new AbortController();
  const running = events.run(stop.signal);
  atEnd(async () => {
    stop.abort();
    await running;
  });
  let last = await events.position();
  /** Notes an event, waits for its position, and moves the time of its making back. */
  const note = async (subjectId: string, agoHours = 0) => {
    await transact(db, (work) => events.note(work, [{ topic: "publish", subjectId }]));
    await until(async () => (await events.position()) > last, { what: "the event to be placed" });
    last = await events.position();
    await sql`UPDATE events SET created_at = now() - make_interval(hours => ${agoHours}) WHERE subject_id = ${subjectId}`.execute(
      db,
    );
    return last;
  };
  return { db, open, events, note };
}

const expired = { reason: "CURSOR_EXPIRED" };

test("partitions are made ahead, once; without them a row still finds a place", async () => {
  const { db, note, events } = await start();
  const upkeep = history(db);
  await upkeep.turned();
  const made = await partitions(db, "events");
  expect(made.length).toBeGreaterThanOrEqual(4); // what was before, the default, and two ahead
  expect(upkeep.did.get("partition_made")).toBeGreaterThanOrEqual(6);
  await upkeep.turned();
  expect(await partitions(db, "events")).toEqual(made);
  for (const name of made.filter((one) => one !== "events_default")) await sql.raw(`DROP TABLE ${name}`).execute(db);
  const position = await note("in default");
  expect(await events.positionOf(events.cursorOf(position))).toBe(position);
  expect(await sql`SELECT 1 FROM events_default`.execute(db)).toMatchObject({ rows: [{}] });
  await upkeep.turned(); // after a gap: partitions begin behind what the default one has
  expect((await partitions(db, "events")).length).toBeGreaterThanOrEqual(2);
  expect(upkeep.age()).toBeLessThan(60);
});

test("a partition goes when all of it is older than the retention, and what stood below it is CURSOR_EXPIRED", async () => {
  const { db, note, events } = await start();
  const cursors = [events.cursorOf(await events.position())];
  for (const hours of [60, 50, 1]) cursors.push(events.cursorOf(await note(`${hours} h`, hours)));
  // The bounds of what was there before partitions: two days ago.
  const [before = ""] = (await partitions(db, "events")).filter((name) => name.startsWith("events_p0_"));
  await sql.raw(`ALTER TABLE events DETACH PARTITION ${before}`).execute(db);
  const upTo = Math.floor(Date.now() / 1000) - 40 * 3_600;
  const old = `events_p0_${upTo}`;
  await sql
    .raw(`CREATE TABLE ${old} PARTITION OF events FOR VALUES FROM (MINVALUE) TO (to_timestamp(${upTo}))`)
    .execute(db);
  await sql.raw(`INSERT INTO events SELECT * FROM ${before}`).execute(db);
  await sql.raw(`DROP TABLE ${before}`).execute(db);
  const upkeep = history(db);
  await upkeep.turned();
  expect(upkeep.did.get("partition_dropped")).toBe(1);
  expect(await partitions(db, "events")).not.toContain(old);
  const [first = "", sixty = "", fifty = "", one = ""] = cursors;
  for (const cursor of [first, sixty]) await expect(events.positionOf(cursor)).rejects.toMatchObject(expired);
  for (const cursor of [fifty, one]) expect(await events.positionOf(cursor)).toBeGreaterThan(0);
});

test("an event with a later position that goes with an older partition is not skipped: cursors below it expire too", async () => {
  const { db, note, events } = await start();
  const first = await note("made later, committed first", 1);
  const second = await note("made earlier, committed last", 50);
  expect(second).toBeGreaterThan(first);
  await history(db).turned(); // deletes the old one; the one with the lower position stays
  const { rows } = await sql<{ subject_id: string }>`SELECT subject_id FROM events`.execute(db);
  expect(rows).toMatchObject([{ subject_id: "made later, committed first" }]);
  await expect(events.positionOf(events.cursorOf(first))).rejects.toMatchObject(expired);
  expect(await events.positionOf(events.cursorOf(second))).toBe(second);
});

test("a watch that stands below what goes is told CURSOR_EXPIRED, not what comes after it", async () => {
  const { db, note, events } = await start();
  const from = await events.position();
  await note("old", 50);
  const slow = createEvents(db, quiet).follow("publish", from, new AbortController().signal); // reads the table
  await history(db).turned();
  await note("new");
  await expect(slow.next()).rejects.toMatchObject(expired);
});

test("what has no position yet is not dropped, however old", async () => {
  const { db } = await testDatabase();
  await sql`INSERT INTO events (topic, subject_id, created_at) VALUES ('publish', 'unplaced', now() - interval '9 days')`.execute(
    db,
  );
  await history(db).turned();
  expect(await sql`SELECT 1 FROM events WHERE position IS NULL`.execute(db)).toMatchObject({ rows: [{}] });
});

test("one replica at a time: while another is at it a turn leaves everything alone and fails nothing", async () => {
  const { db, open } = await testDatabase();
  const failed: string[] = [];
  const other = open().db;
  const upkeep = history(db, {}, failed);
  await alone(other, async () => {
    await upkeep.turn();
    expect(await partitions(db, "ended_commands")).toEqual(["ended_commands_default"]);
  });
  await upkeep.turn();
  expect((await partitions(db, "ended_commands")).length).toBeGreaterThan(1);
  expect(failed).toEqual([]);
});

test("a table that is held is not waited for: writers behind it go on, and the next turn does the work", async () => {
  const { db, open } = await testDatabase();
  const failed: string[] = [];
  const upkeep = history(db, {}, failed);
  await transact(open().db, async ({ tx }) => {
    await sql`LOCK TABLE events_default IN ACCESS SHARE MODE`.execute(tx); // as a backup that reads it does
    await upkeep.turn();
    await sql`INSERT INTO events (topic, subject_id) VALUES ('publish', 'goes on')`.execute(db);
  });
  expect(failed.join()).toContain("55P03");
  expect((await partitions(db, "audit_events")).length).toBeGreaterThan(2); // U1
  await upkeep.turn();
  expect((await partitions(db, "events")).length).toBeGreaterThan(2);
});

test("idempotency keys and audit events go with their time", async () => {
  const { db } = await testDatabase();
  for (const days of [400, 40, 1]) {
    await sql`INSERT INTO audit_events (id, at, principal_id, principal, action, resource_kind, resource_id)
      VALUES (${`audit_${days}`}, now() - make_interval(days => ${days}), 'p', 'p', 'a', 'k', 'r')`.execute(db);
    await sql`INSERT INTO idempotency_keys (principal_id, method, key, request_hash, response, created_at)
      VALUES ('p', 'm', ${`${days}`}, '', '', now() - make_interval(days => ${days}))`.execute(db);
  }
  await history(db).turned();
  const keys = await db.selectFrom("idempotency_keys").select("key").execute();
  expect(keys).toEqual([{ key: "1" }]);
  const audits = await db.selectFrom("audit_events").select("id").orderBy("at").execute();
  expect(audits.map(({ id }) => id)).toEqual(["audit_40", "audit_1"]);
});
