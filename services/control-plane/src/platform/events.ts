/**
 * Events for watches: that a subject changed, not what it became. A watcher
 * reads the subject's newest state, so events of one subject may be merged.
 *
 * W1: a position is given after the commit, by one sequencer at a time under an
 *     advisory lock; so whoever has seen position n has seen everything below.
 * W2: a watch may repeat, never skips.
 * W3: the table is read once per replica, not once per watch: `run` keeps the
 *     newest events in memory, and a watch reads the table only for what is older.
 *     While nobody watches nothing is read.
 * W4: what retention took is told, not skipped: whoever stands below the floor
 *     (history.ts raises it before anything goes) gets CURSOR_EXPIRED. Rows and
 *     floor are read in one statement: it waits for a drop, and sees its floor.
 */
import { problem, systemClock } from "@bowline/kernel";
import { sql } from "kysely";
import { type Bell, createBell } from "./bell.ts";
import {
  type Happening,
  insertSet,
  olderTogether,
  placeOlder,
  placeSets,
  setsTogether,
  type Topic,
} from "./event-sets.ts";
import type { Db, Work } from "./transactions.ts";

export type { Happening, Topic } from "./event-sets.ts";

export interface PlacedEvent {
  position: number;
  subjectId: string;
  organisationId: string;
  clusterId: string;
}

export interface Events {
  /** Notes that these changed; written at the end of the transaction of the change, once per subject. */
  note(work: Work, happenings: readonly Happening[]): Promise<void>;
  /** Places events after every commit and at an interval, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** Another replica placed events: they are read now instead of at the next poll. */
  look(): void;
  /** Told after this replica placed events; set before `run`. */
  onPlaced: () => void;
  /** The newest position now. Read it before a snapshot, and watch from it. */
  position(): Promise<number>;
  /** Reads a cursor. Throws CURSOR_EXPIRED where what followed it is no longer kept. */
  positionOf(cursor: string): Promise<number>;
  cursorOf(position: number): string;
  /** Batches of events of a topic after `from`, in order; an empty batch every `idleMs`. Ends when `signal` aborts. */
  follow(topic: Topic, from: number, signal: AbortSignal): AsyncGenerator<{ events: PlacedEvent[]; position: number }>;
  /** Watches that are open, and events in memory for them. */
  measured(): { watches: number; remembered: number };
}

/** Events read in one statement. */
const batch = 1_000;
/** Another replica's commit is found by this poll where no word of it came; this replica's own by its bell. */
const pollMs = 1_000;
/**
 * How long a placing waits for others that commit with it: as long as the one before took, so that a busy database is
 * not kept busy with it, and below what a person notices.
 */
const gatherMs = 5;
const maxGatherMs = 50;
/** Newest events in memory: some minutes of a busy server, about 2 MB. */
const keepInMemory = 10_000;
/** A watch says at least this often that it is alive. Proxies drop idle streams at 30 s and more. */
export const watchIdleMs = 15_000;

const startAgain = "Watch again without a cursor: that begins with a snapshot and goes on from there.";

export function createEvents(db: Db, log: { error(fields: object, message: string): void }): Events {
  const committed: Bell = createBell();
  const placed: Bell = createBell();
  /** Commits of this replica since it last placed: a word of another replica has nothing to place. */
  let commits = 0;

  let watches = 0;
  /** The newest events in order of position, without a gap from `floor` to `tail` (W3). Undefined until `run` reads. */
  let memory: { events: (PlacedEvent & { topic: string })[]; floor: number; tail: number } | undefined;

  /** Reads what was placed since, also by other replicas. */
  async function readNew(): Promise<void> {
    if (memory === undefined) {
      const position = await newest();
      memory = { events: [], floor: position, tail: position };
      placed.ring(); // who has read the table meanwhile may have missed what is below it
    }
    for (;;) {
      const { rows, floor } = await read(memory.tail);
      // This replica stood still for longer than events are kept: what is between is gone for it too (W4).
      if (floor > memory.tail) memory = { events: [], floor, tail: floor };
      memory.events.push(...rows);
      memory.tail = rows.at(-1)?.position ?? memory.tail;
      const excess = memory.events.splice(0, Math.max(0, memory.events.length - keepInMemory));
      memory.floor = excess.at(-1)?.position ?? memory.floor;
      if (rows.length > 0) placed.ring();
      if (rows.length < batch) return;
    }
  }

  async function read(
    after: number,
    topic?: Topic,
  ): Promise<{ floor: number; rows: (PlacedEvent & { topic: string })[] }> {
    const { rows } = await sql<{
      floor: number;
      position: number | null;
      topic: string;
      subject_id: string;
      organisation_id: string;
      cluster_id: string;
    }>`SELECT f.position AS floor, e.position, e.topic, e.subject_id, e.organisation_id, e.cluster_id
      FROM event_floor AS f LEFT JOIN LATERAL (
        SELECT position, topic, subject_id, organisation_id, cluster_id FROM events
        WHERE position > ${after} ${topic === undefined ? sql`` : sql`AND topic = ${topic}`}
        ORDER BY position LIMIT ${batch}) AS e ON true`.execute(db);
    return {
      floor: rows[0]?.floor ?? 0,
      rows: rows.flatMap((row) =>
        row.position === null
          ? []
          : [
              {
                position: row.position,
                topic: row.topic,
                subjectId: row.subject_id,
                organisationId: row.organisation_id,
                clusterId: row.cluster_id,
              },
            ],
      ),
    };
  }

  /** Throws CURSOR_EXPIRED where retention took some of it meanwhile (W4). */
  async function readFrom(position: number, topic: Topic): Promise<PlacedEvent[]> {
    const { rows, floor } = await read(position, topic);
    if (position < floor) throw problem("CURSOR_EXPIRED");
    return rows;
  }

  /** What was noted in each transaction, until it commits: one insert for all of it, one event per subject. */
  const noted = new WeakMap<Work, Map<string, Happening>>();

  /** Of what is placed. Where the last of it is gone already, the floor; where nothing ever was, the sequence. */
  async function newest(): Promise<number> {
    const { rows } = await sql<{ floor: number; last: number | null }>`
      SELECT position AS floor, (SELECT max(position) FROM events) AS last FROM event_floor`.execute(db);
    const [found] = rows;
    if (found?.last != null) return Math.max(found.last, found.floor);
    const sequence = await sql<{ last: number; called: boolean }>`
      SELECT last_value AS last, is_called AS called FROM event_position`.execute(db);
    return sequence.rows[0]?.called === true ? sequence.rows[0].last : 0;
  }

  const events: Events = {
    onPlaced: () => undefined,
    look: () => committed.ring(),
    async note(work, happenings) {
      if (happenings.length === 0) return;
      let gathered = noted.get(work);
      if (gathered === undefined) {
        const all = (gathered = new Map<string, Happening>());
        noted.set(work, all);
        work.last(() => {
          noted.delete(work); // what follows is noted anew
          return insertSet(work.tx, [...all.values()]);
        });
        work.after(() => {
          commits += 1;
          committed.ring();
        });
      }
      for (const happening of happenings) gathered.set(`${happening.topic} ${happening.subjectId}`, happening);
    },

    async run(signal) {
      let polledAt = -pollMs;
      let tookMs = 0;
      while (!signal.aborted) {
        const seen = committed.count();
        try {
          const startedAt = performance.now();
          const polls = startedAt - polledAt >= pollMs;
          if (polls) polledAt = startedAt;
          if (polls || commits > 0) {
            commits = 0;
            const sets = await placeSets(db);
            const older = polls ? await placeOlder(db) : 0;
            if (sets + older > 0) events.onPlaced();
            if (older === olderTogether) polledAt = -pollMs; // There may be more: at once again.
            if (sets === setsTogether || older === olderTogether) {
              commits += 1;
              committed.ring();
            }
          }
          if (watches > 0) await readNew();
          else memory = undefined; // W3
          tookMs = performance.now() - startedAt;
        } catch (error) {
          polledAt = -pollMs; // what was to be placed is still
          if (!signal.aborted) log.error({ error }, "events could not be placed; tried again");
        }
        await committed.wait(seen, pollMs, signal);
        // Commits come in bursts, and each placing is a transaction: those of a moment share one.
        if (committed.count() > seen)
          await systemClock.sleep(Math.min(Math.max(gatherMs, tookMs), maxGatherMs), signal);
      }
    },

    position: newest,

    async positionOf(cursor) {
      const position = Number(Buffer.from(cursor, "base64url").toString().replace(/^c/, ""));
      if (!Number.isSafeInteger(position) || position < 0)
        throw problem("CURSOR_EXPIRED", `This is not a cursor of this server. ${startAgain}`);
      const { rows } = await sql<{ floor: number; oldest: number | null }>`
        SELECT position AS floor, (SELECT min(position) FROM events) AS oldest FROM event_floor`.execute(db);
      const [kept] = rows;
      const last = await newest();
      // A replica of the schema before deletes by time and raises no floor; hence `oldest` too.
      const floor = Math.max(kept?.floor ?? 0, (kept?.oldest ?? last + 1) - 1);
      if (position < floor) throw problem("CURSOR_EXPIRED");
      if (position > last)
        throw problem("CURSOR_EXPIRED", `This cursor is of another history of the database. ${startAgain}`);
      return position;
    },

    cursorOf: (position) => Buffer.from(`c${position}`).toString("base64url"),

    async *follow(topic, from, signal) {
      let position = from;
      let spokeAt = performance.now();
      watches += 1;
      if (watches === 1) committed.ring(); // W3: read from now on
      try {
        while (!signal.aborted) {
          const seen = placed.count();
          const tail = memory?.tail ?? 0; // before the table is read: all up to it is there by then
          const remembered = memory !== undefined && position >= memory.floor ? memory : undefined;
          const events =
            remembered === undefined
              ? await readFrom(position, topic)
              : since(remembered.events, position).filter((event) => event.topic === topic);
          // Nothing of this topic up to the tail: the watch stands there, so that memory goes on to cover it.
          if (events.length === 0) position = Math.max(position, tail);
          const last = events.at(-1);
          if (last !== undefined) {
            position = last.position;
            spokeAt = performance.now();
            yield { events, position };
            continue;
          }
          if (performance.now() - spokeAt >= watchIdleMs) {
            spokeAt = performance.now();
            yield { events: [], position };
          }
          await placed.wait(seen, pollMs, signal);
        }
      } finally {
        watches -= 1;
      }
    },

    measured: () => ({ watches, remembered: memory?.events.length ?? 0 }),
  };
  return events;
}

/** The events after a position. Looked for from the end, because as a rule there are few. */
function since<Event extends PlacedEvent>(events: readonly Event[], position: number): Event[] {
  let start = events.length;
  while (start > 0 && (events[start - 1]?.position ?? 0) > position) start -= 1;
  return events.slice(start);
}
