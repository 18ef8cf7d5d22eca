/**
 * How events get from a transaction to their positions. A transaction notes all
 * of its events as one row; the sequencer takes rows whose transactions have
 * committed, and writes their events with positions, once each.
 *
 * W1: one sequencer at a time, under an advisory lock that it holds until its
 *     commit: whoever sees position n sees everything below.
 */
import { sql } from "kysely";
import type { Db, Tx } from "./transactions.ts";

export type Topic = "agent" | "command" | "publish" | "stack" | "audit";

export interface Happening {
  topic: Topic;
  subjectId: string;
  organisationId?: string;
  clusterId?: string;
}

/** Any number that nobody else uses for advisory locks in this database. */
const sequencerLock = 7_310_001;
/** Placed in one statement, few enough to hold the lock shortly: transactions, of which the largest note some hundred events. */
export const setsTogether = 50;
/** And events that were noted one by one. */
export const olderTogether = 1_000;

/** One row, whatever their number. */
export async function insertSet(tx: Tx, happenings: readonly Happening[]): Promise<void> {
  if (happenings.length === 0) return;
  const column = (read: (one: Happening) => string): string[] => happenings.map(read);
  await sql`
    INSERT INTO event_sets (topics, subjects, organisations, clusters)
    VALUES (${column((one) => one.topic)}::text[], ${column((one) => one.subjectId)}::text[],
      ${column((one) => one.organisationId ?? "")}::text[], ${column((one) => one.clusterId ?? "")}::text[])`.execute(
    tx,
  );
}

/** Waits for the sequencer's place (W1), which its transaction holds to the end. What needs it joins `locked`. */
const locked = sql`locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(${sequencerLock}) :: text = '' AS held)`;

/**
 * Places what was committed when this began, in the order of its noting. What another sequencer has placed while this one
 * waited is gone, also where this statement still sees it. Says how many transactions' events it placed.
 */
export async function placeSets(db: Db): Promise<number> {
  const { rows } = await sql<{ sets: number }>`
    WITH ${locked}, taken AS (
      DELETE FROM event_sets WHERE id = ANY (ARRAY (
        SELECT s.id FROM event_sets AS s, locked WHERE locked.held ORDER BY s.id LIMIT ${setsTogether}))
      RETURNING id, topics, subjects, organisations, clusters
    ), added AS (
      INSERT INTO events (position, topic, subject_id, organisation_id, cluster_id)
      SELECT nextval('event_position'), ordered.topic, ordered.subject_id, ordered.organisation_id, ordered.cluster_id
      FROM (
        SELECT e.topic, e.subject_id, e.organisation_id, e.cluster_id FROM taken, unnest(taken.topics, taken.subjects, taken.organisations, taken.clusters)
          WITH ORDINALITY AS e (topic, subject_id, organisation_id, cluster_id, place)
        ORDER BY taken.id, e.place) AS ordered
    )
    SELECT count(*) AS sets FROM taken`.execute(db);
  return rows[0]?.sets ?? 0;
}

/** Places what servers of the schema before have noted, or left behind. Says how many events. */
export async function placeOlder(db: Db): Promise<number> {
  const { rows } = await sql<{ events: number }>`
    WITH ${locked}, placed AS (
      UPDATE events SET position = nextval('event_position')
      FROM (
        SELECT e.id, e.created_at FROM events AS e, locked
        WHERE e.position IS NULL AND locked.held ORDER BY e.id LIMIT ${olderTogether}) AS unplaced
      WHERE events.id = unplaced.id AND events.created_at = unplaced.created_at AND events.position IS NULL
      RETURNING 1
    )
    SELECT count(*) AS events FROM placed`.execute(db);
  return rows[0]?.events ?? 0;
}
