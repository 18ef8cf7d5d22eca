import { expect, test } from "@jest/globals";
import { atEnd, databaseProxy, testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { createNotices, maxNoticeBytes, type Notices } from "./notices.ts";

function start(address: string, name: string) {
  const heard: string[] = [];
  let gaps = 0;
  const stopping = new AbortController();
  const notices: Notices = createNotices({
    address,
    applicationName: name,
    channels: [`bowline_${name}`, "bowline_all"],
    heard: (payload) => heard.push(payload),
    gap: () => (gaps += 1),
    log: { warn: () => undefined },
  });
  const running = notices.run(stopping.signal);
  atEnd(async () => {
    stopping.abort();
    await running;
  });
  return { notices, heard, gaps: () => gaps, listening: () => until(() => notices.listening()) };
}

test("N1: what gathers goes with one statement, to the channel that it is for and to all", async () => {
  const { url, db } = await testDatabase({ migrated: false });
  const [one, two] = [start(url, "one"), start(url, "two")];
  await Promise.all([one.listening(), two.listening()]);
  for (let number = 0; number < 500; number += 1) expect(one.notices.send("bowline_two", `${number}`)).toBe(true);
  one.notices.send("bowline_all", "to all");
  await until(() => two.heard.length === 501);
  expect(two.heard.slice(0, 500)).toEqual(Array.from({ length: 500 }, (_, number) => `${number}`));
  await until(() => one.heard.includes("to all"));
  const { rows } = await sql<{ query: string }>`
    SELECT query FROM pg_stat_activity WHERE application_name = 'one' AND datname = current_database()`.execute(db);
  expect(rows.map(({ query }) => query)).toEqual([expect.stringContaining("pg_notify(c, p) FROM unnest")]);
});

test("a payload that PostgreSQL would refuse is not sent, and costs the others nothing", async () => {
  const { url } = await testDatabase({ migrated: false });
  const one = start(url, "one");
  expect(one.notices.send("bowline_one", "before it listens")).toBe(false);
  await one.listening();
  expect(one.notices.send("bowline_one", "x".repeat(maxNoticeBytes + 1))).toBe(false);
  expect(one.notices.send("bowline_one", "x".repeat(maxNoticeBytes))).toBe(true);
  expect(one.notices.send("bowline_one", "after")).toBe(true);
  await until(() => one.heard.at(-1) === "after");
  expect(one.heard).toHaveLength(2);
});

test("N2: a connection that was lost is made anew, and it is told that something may have been missed", async () => {
  const proxy = await databaseProxy(await testDatabase({ migrated: false }));
  const one = start(proxy.url, "one");
  await one.listening();
  proxy.cut();
  await until(() => !one.notices.listening());
  expect(one.notices.send("bowline_one", "meanwhile")).toBe(false);
  proxy.mend();
  await one.listening();
  expect(one.gaps()).toBe(2);
  one.notices.send("bowline_one", "again");
  await until(() => one.heard.includes("again"));
});
