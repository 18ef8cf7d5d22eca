/** What a watch says, against events in a real PostgreSQL. */
import { expect, test } from "@jest/globals";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { createEvents } from "./events.ts";
import { transact } from "./transactions.ts";
import { watch } from "./watch.ts";

interface Said {
  subject: string;
  cursor: string;
  snapshotEnd: boolean;
}

async function start() {
  const { db } = await testDatabase();
  const events = createEvents(db, { error: () => {} });
  const run = (): void => {
    const stop = new AbortController();
    const running = events.run(stop.signal);
    atEnd(async () => {
      stop.abort();
      await running;
    });
  };
  const note = (subjectId: string) =>
    transact(db, (work) => events.note(work, [{ topic: "publish" as const, subjectId }]));
  /** What a watch from `cursor` on says, until `count` subjects are told. */
  const told = async (cursor: string, count: number): Promise<Said[]> => {
    const ending = new AbortController();
    const said: Said[] = [];
    const source = {
      topic: "publish" as const,
      snapshot: () => [],
      wants: () => true,
      read: async (event: { subjectId: string }) => ({ subject: event.subjectId, cursor: "", snapshotEnd: false }),
      empty: ({ snapshotEnd }: { snapshotEnd: boolean }) => ({ subject: "", cursor: "", snapshotEnd }),
      withCursor: (message: Said, position: string) => ({ ...message, cursor: position }),
    };
    for await (const message of watch<Said>(events, cursor, source, ending.signal)) {
      if (message.subject !== "") said.push(message);
      if (said.length === count) ending.abort();
    }
    return said;
  };
  return { events, run, note, told };
}

test("whoever goes on from any message is told each subject that was not told before it", async () => {
  const { events, run, note, told } = await start();
  const before = await events.position();
  const from = events.cursorOf(before);
  const noted = ["a", "b", "a", "c", "b", "a"];
  for (const subject of noted) await note(subject);
  run(); // now, so that all are seen at once
  await until(async () => (await events.position()) === before + noted.length, { what: "all to be placed" });
  const all = await told(from, 3); // one message per subject, whose newest state it has
  expect(all.map(({ subject }) => subject)).toEqual(["c", "b", "a"]);
  for (const [index, { cursor }] of all.entries()) {
    const rest = all.slice(index + 1).map(({ subject }) => subject);
    if (rest.length > 0) expect((await told(cursor, rest.length)).map(({ subject }) => subject)).toEqual(rest);
  }
});
