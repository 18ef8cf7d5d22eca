/** What comes up the streams, on its way to a real PostgreSQL. */
import { expect, jest, test } from "@jest/globals";
import { systemClock } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import type { EnginePorts } from "../commands/index.ts";
import { createIntake } from "./intake.ts";

test("when an agent was last seen is the database's time, whatever this replica's clock says", async () => {
  const { db } = await testDatabase();
  const agentId = "agent_1";
  await sql`INSERT INTO clusters (id, name, runtime) VALUES ('cluster_1', 'one', 'local')`.execute(db);
  await sql`INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
    VALUES (${agentId}, 'cluster_1', 'one', 'local', 'machine', '{}', 'one', '{}')`.execute(db);
  const ports = { db, log: { warn: () => {} } } as unknown as EnginePorts; // what it uses of them for this
  jest.useFakeTimers({
    now: new Date("2001-01-01"),
    doNotFake: [
      "performance",
      "setTimeout",
      "clearTimeout",
      "setInterval",
      "clearInterval",
      "setImmediate",
      "clearImmediate",
      "nextTick",
      "queueMicrotask",
      "hrtime",
    ],
  });
  try {
    const intake = createIntake(ports, systemClock);
    intake.seen(agentId, undefined);
    const stop = new AbortController();
    const running = intake.run(stop.signal);
    stop.abort(); // it writes once more
    await running;
  } finally {
    jest.useRealTimers();
  }
  const { rows } = await sql<{ ago: number }>`
    SELECT extract(epoch FROM now() - last_seen_at)::float8 AS ago FROM agent_seen WHERE agent_id = ${agentId}`.execute(
    db,
  );
  expect(rows).toHaveLength(1);
  expect(Math.abs(rows[0]?.ago ?? Number.NaN)).toBeLessThan(60);
});

test("a runtime's problem that a heartbeat tells is the agent's until one tells that it is over; who says nothing new is not written", async () => {
  const { db } = await testDatabase();
  await sql`INSERT INTO clusters (id, name, runtime) VALUES ('cluster_1', 'one', 'docker')`.execute(db);
  for (const id of ["agent_1", "agent_2"])
    await sql`INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
      VALUES (${id}, 'cluster_1', ${id}, 'docker', 'machine', '{}', ${id}, '{}')`.execute(db);
  const noted: string[] = [];
  const events = {
    note: async (_: unknown, all: { subjectId: string }[]) => void noted.push(...all.map((one) => one.subjectId)),
  };
  const ports = { db, events, log: { warn: () => {} } } as unknown as EnginePorts; // what it uses of them for this
  const written = async (...problems: (string | undefined)[]) => {
    const intake = createIntake(ports, systemClock);
    for (const [index, problem] of problems.entries()) intake.seen(`agent_${index + 1}`, undefined, problem);
    const stop = new AbortController();
    const running = intake.run(stop.signal);
    stop.abort(); // it writes once more
    await running;
    const rows = await db.selectFrom("agents").select("runtime_problem").orderBy("id").execute();
    return rows.map((row) => row.runtime_problem);
  };
  expect(await written("the engine is away\0", "")).toEqual(["the engine is away\u{fffd}", ""]);
  expect(await written(undefined, undefined)).toEqual(["the engine is away\u{fffd}", ""]);
  expect(await written("", "")).toEqual(["", ""]);
  expect(noted).toEqual(["agent_1", "agent_1"]);
});
