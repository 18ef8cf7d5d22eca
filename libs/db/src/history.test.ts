/** 0011-history from the schema before, with data, and beside a server of that schema. */
import { expect, test } from "@jest/globals";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { migrate } from "./migrate.ts";

/** As the server of the schema before says them. */
const older = {
  note: (subject: string) =>
    sql`INSERT INTO events (topic, subject_id, organisation_id, cluster_id)
      SELECT * FROM unnest(ARRAY['publish'], ARRAY[${subject}]::text[], ARRAY[''], ARRAY[''])`,
  place: sql.raw(`SELECT pg_advisory_xact_lock(7310001);
    UPDATE events SET position = nextval('event_position')
    FROM (SELECT id FROM events WHERE position IS NULL ORDER BY id LIMIT 1000) AS unplaced
    WHERE events.id = unplaced.id`),
  read: (after: number) =>
    sql<{ position: number; subject_id: string }>`SELECT position, topic, subject_id, organisation_id, cluster_id
      FROM events WHERE position > ${after} ORDER BY position LIMIT 1000`,
  bounds: sql<{ oldest: number; newest: number }>`SELECT min(position) AS oldest, max(position) AS newest FROM events`,
  prune: sql`DELETE FROM events WHERE created_at < now() - make_interval(hours => 24)`,
  audit: (id: string) =>
    sql`INSERT INTO audit_events (id, principal_id, principal, action, resource_kind, resource_id, before, after)
      VALUES (${id}, 'system', 'system', 'agent.enrol', 'agent', ${`agent_${id}`}, NULL, '{"state":"ENROLLED"}')`,
  audits: sql<{ id: string }>`SELECT * FROM audit_events WHERE starts_with(action, 'agent.') ORDER BY id DESC LIMIT 10`,
};

test("events, positions and audit events stay as they were, and a server of the schema before goes on beside it", async () => {
  const { db } = await testDatabase({ migrated: false });
  await migrate(db, "0010-client-certificates");
  for (const subject of ["a", "b", "c"]) await older.note(subject).execute(db);
  await older.place.execute(db);
  await older.note("unplaced").execute(db);
  await older.audit("audit_1").execute(db);
  // A statement that this connection keeps prepared meets the table's successor.
  for (let time = 0; time < 5; time += 1) await older.read(0).execute(db);

  expect(await migrate(db)).toMatchObject({ applied: expect.arrayContaining(["0011-history"]) });

  await older.note("later").execute(db);
  await older.place.execute(db);
  const { rows } = await older.read(0).execute(db);
  expect(rows.map(({ subject_id }) => subject_id)).toEqual(["a", "b", "c", "unplaced", "later"]);
  expect(rows.map(({ position }) => position)).toEqual([1, 2, 3, 4, 5]);
  expect((await older.bounds.execute(db)).rows).toEqual([{ oldest: 1, newest: 5 }]);
  const { rows: ids } = await sql<{ ids: number; rows: number }>`
    SELECT count(DISTINCT id) AS ids, count(*) AS rows FROM events`.execute(db);
  expect(ids).toEqual([{ ids: 5, rows: 5 }]);
  await sql`UPDATE events SET created_at = now() - interval '2 days' WHERE subject_id = 'a'`.execute(db);
  await older.prune.execute(db);
  expect((await older.bounds.execute(db)).rows).toEqual([{ oldest: 2, newest: 5 }]);
  await older.audit("audit_2").execute(db);
  expect((await older.audits.execute(db)).rows.map(({ id }) => id)).toEqual(["audit_2", "audit_1"]);
  expect(await db.selectFrom("event_floor").select("position").execute()).toEqual([{ position: 0 }]);
});

test("an empty database of the schema before is taken over too", async () => {
  const { db } = await testDatabase({ migrated: false });
  await migrate(db, "0010-client-certificates");
  await migrate(db);
  await older.note("first").execute(db);
  await older.place.execute(db);
  expect((await older.read(0).execute(db)).rows).toMatchObject([{ position: 1, subject_id: "first" }]);
});
