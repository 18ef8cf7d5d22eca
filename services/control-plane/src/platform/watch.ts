/** What every watch has in common: a snapshot, then changes, each with a cursor. */
import type { Events, PlacedEvent, Topic } from "./events.ts";

/** How one kind of watch reads and words what it sends. */
export interface WatchSource<Message> {
  topic: Topic;
  /** Everything that a watch without a cursor starts with. */
  snapshot(): AsyncIterable<Message> | Iterable<Message>;
  /** Whether the watcher may see, and asked for, this event. */
  wants(event: PlacedEvent): boolean;
  /** The newest state of a subject; undefined where it isn't shown (any more). */
  read(event: PlacedEvent): Promise<Message | undefined>;
  /** A message without a subject, for the snapshot's end and for heartbeats. */
  empty(fields: { snapshotEnd: boolean }): Message;
  withCursor(message: Message, cursor: string): Message;
}

/** Runs a watch until `signal` aborts. */
export async function* watch<Message>(
  events: Events,
  cursor: string,
  source: WatchSource<Message>,
  signal: AbortSignal,
): AsyncGenerator<Message> {
  let from: number;
  if (cursor === "") {
    from = await events.position(); // before the snapshot (W2): what changes meanwhile is sent again
    for await (const message of source.snapshot()) yield source.withCursor(message, events.cursorOf(from));
    yield source.withCursor(source.empty({ snapshotEnd: true }), events.cursorOf(from));
  } else {
    from = await events.positionOf(cursor);
  }
  for await (const { events: batch, position } of events.follow(source.topic, from, signal)) {
    for (const event of newestOf(batch.filter((one) => source.wants(one)))) {
      const message = await source.read(event);
      if (message !== undefined) yield source.withCursor(message, events.cursorOf(event.position));
    }
    yield source.withCursor(source.empty({ snapshotEnd: false }), events.cursorOf(position));
  }
}

/**
 * The last event of each subject, in the order of their positions: whoever goes on after one of them has been told all
 * before it (W2).
 */
function newestOf(batch: readonly PlacedEvent[]): PlacedEvent[] {
  const last = new Map(batch.map((event) => [event.subjectId, event]));
  return batch.filter((event) => last.get(event.subjectId) === event);
}
