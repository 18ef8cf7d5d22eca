/** Sessions that open and end, and Syncs that end, in sets: what is so for each of them alone. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { ConnectRequestSchema, type Sync, SyncSchema } from "@bowline/contract/agent";
import { isProblem, newId } from "@bowline/kernel";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { createEvents } from "../platform/events.ts";
import type { Db } from "../platform/transactions.ts";
import { createEnds } from "./ends.ts";
import { createOpenings, type Openings } from "./openings.ts";
import { createPlainSyncs } from "./plain-syncs.ts";

async function start(count: number) {
  const { db } = await testDatabase();
  const log = { error: () => undefined, warn: () => undefined };
  const closed: unknown[][] = [];
  const signals = {
    wake: () => undefined,
    cancel: () => undefined,
    pushAgain: () => undefined,
    close: (...told: unknown[]) => void closed.push(told),
  };
  const engine = { db, events: createEvents(db, log), owners: new Map(), signals, random: () => 0, log };
  await db.insertInto("installation").values({ id: "inst_1" }).execute();
  const clusterId = newId("cluster");
  await db.insertInto("clusters").values({ id: clusterId, name: "factory-7", runtime: "local" }).execute();
  const agents = Array.from({ length: count }, () => newId("agent"));
  await db
    .insertInto("agents")
    .values(
      agents.map((id, at) => ({
        ...{ id, cluster_id: clusterId, name: `press-${at}`, runtime: "local", runtime_identity: id },
        ...{ signing_key: "{}", signing_thumbprint: id, sealing_key: "{}" },
      })),
    )
    .execute();
  const openings = createOpenings(() => engine);
  const open = (agentId: string, more: object = {}, greeting: object = {}): ReturnType<Openings["open"]> =>
    openings.open({
      ...{ agentId, counter: 1, thumbprint: agentId, replicaId: "r", remoteAddress: "", clientCertificate: "" },
      ...{ transport: "STREAM", ...more },
      greeting: create(ConnectRequestSchema, {
        ...{ protocolMin: 1, protocolMax: 1, runtimeIdentity: agentId, processId: `process of ${agentId}` },
        ...greeting,
      }),
    });
  const sessions = async () =>
    new Map((await db.selectFrom("sessions").selectAll().execute()).map((row) => [row.agent_id, row] as const));
  return {
    db,
    engine,
    agents,
    clusterId,
    open,
    sessions,
    closed,
    plain: createPlainSyncs(() => engine),
    ends: createEnds(() => engine),
  };
}

/** What each came to: "ok", or the reason of its refusal. */
async function outcomes(openings: readonly Promise<unknown>[]): Promise<unknown[]> {
  const settled = await Promise.allSettled(openings);
  return settled.map((one) =>
    one.status === "fulfilled" ? "ok" : isProblem(one.reason) ? one.reason.reason : one.reason,
  );
}

test("of many that dial at once each gets its own answer, and who is refused costs nobody else anything", async () => {
  const { db, agents, open, sessions } = await start(40);
  const [, revoked = "", other = "", replayed = "", moved = "", gone = ""] = agents;
  await db.updateTable("agents").set({ state: "REVOKED" }).where("id", "=", revoked).execute();
  await open(replayed, { counter: 7 });
  const dial = (agentId: string) => {
    if (agentId === other) return open(agentId, { thumbprint: "another key" });
    if (agentId === moved) return open(agentId, {}, { runtimeIdentity: "another host" });
    if (agentId === gone) return open("agent_unknown");
    return open(agentId, { counter: 7 });
  };
  const expected = new Map([
    [revoked, "AGENT_REVOKED"],
    [other, "AGENT_KEY_REPLACED"],
    [replayed, "ASSERTION_REPLAYED"],
    [moved, "AGENT_CONFLICT"],
    [gone, "ASSERTION_INVALID"],
  ]);
  expect(await outcomes(agents.map(dial))).toEqual(agents.map((agentId) => expected.get(agentId) ?? "ok"));
  const rows = await sessions();
  expect([...rows.keys()].toSorted()).toEqual(
    agents.filter((agentId) => !expected.has(agentId) || agentId === replayed).toSorted(),
  );
  expect(new Set([...rows.values()].map(({ epoch, state }) => `${epoch} ${state}`))).toEqual(new Set(["1 SYNCING"]));
  const conflicts = await db.selectFrom("agents").select("id").where("state", "=", "CONFLICT").execute();
  expect(conflicts).toEqual([{ id: moved }]);
});

test("two dials of one agent in one moment open one session after the other; the same counter opens one", async () => {
  const { agents, open, sessions } = await start(3);
  const [first = "", twice = ""] = agents;
  const all = [
    open(first),
    ...agents.map((agentId) => open(agentId, { counter: 2 })),
    open(twice, { counter: 3 }),
    open(twice, { counter: 3 }),
  ];
  expect(await outcomes(all)).toEqual(["ok", "ok", "ok", "ok", "ok", "ASSERTION_REPLAYED"]);
  expect((await sessions()).get(first)).toMatchObject({ epoch: 2, assertion_counter: 2 });
  expect((await sessions()).get(twice)).toMatchObject({ epoch: 2, assertion_counter: 3 });
});

test("processes that take turns are in conflict, each agent for itself; the replica that held one is told", async () => {
  const { agents, open, closed } = await start(2);
  const [fights = "", moves = ""] = agents;
  const round = (counter: number, processId: string, replicaId: string) =>
    outcomes([
      open(fights, { counter, replicaId }, { processId }),
      open(moves, { counter, replicaId }, { processId: `${processId} ${counter}` }),
    ]);
  expect(await round(1, "a", "r1")).toEqual(["ok", "ok"]);
  expect(await round(2, "b", "r2")).toEqual(["ok", "ok"]);
  expect(closed).toEqual([fights, moves].map((agentId) => [agentId, "SUPERSEDED", "r1"]));
  expect(await round(3, "a", "r2")).toEqual(["AGENT_CONFLICT", "ok"]);
});

/** Holds a row of a table until it is let go. */
async function hold(db: Db, table: "agents" | "sessions", id: string): Promise<() => Promise<void>> {
  let letGo: () => void = () => undefined;
  const enough = new Promise<void>((resolve) => (letGo = resolve));
  const column = sql.ref(table === "agents" ? "id" : "agent_id");
  const holding = db.transaction().execute(async (tx) => {
    await sql`SELECT FROM ${sql.table(table)} WHERE ${column} = ${id} FOR UPDATE`.execute(tx);
    await enough;
  });
  await until(async () => {
    const free = sql`SELECT FROM ${sql.table(table)} WHERE ${column} = ${id} FOR UPDATE SKIP LOCKED`;
    return (await free.execute(db)).rows.length === 0;
  });
  return async () => {
    letGo();
    await holding;
  };
}

test("nobody waits for an agent whose row is held by somebody else", async () => {
  const { db, agents, open, sessions } = await start(20);
  const [held = ""] = agents;
  const letGo = await hold(db, "agents", held);
  const all = agents.map((agentId) => open(agentId));
  try {
    expect(await outcomes(all.slice(1))).toEqual(Array.from({ length: 19 }, () => "ok"));
    expect((await sessions()).has(held)).toBe(false);
  } finally {
    await letGo();
  }
  expect(await outcomes(all)).toEqual(Array.from({ length: 20 }, () => "ok"));
});

test("of sessions that end at once those end that are still their agents', each for its own reason; nobody waits for a row that is held", async () => {
  const { db, agents, open, sessions, ends } = await start(20);
  const [held = "", newer = "", silent = "", polled = ""] = agents;
  await Promise.all(agents.map((agentId) => open(agentId)));
  await open(newer, { counter: 2 });
  const ending = (agentId: string) =>
    ends.end({
      ...{ agentId, epoch: 1, reason: agentId === silent ? "HEARTBEAT_MISSED" : "CONNECTION_LOST" },
      ...(agentId === polled ? { held: { by: "another", since: 0 } } : {}),
    });
  const letGo = await hold(db, "sessions", held);
  const all = agents.map(ending);
  try {
    await Promise.all(all.slice(1));
    const rows = await sessions();
    const open = agents.filter((agentId) => rows.get(agentId)?.state !== "ENDED");
    expect(open).toEqual([held, newer, polled]);
    expect(rows.get(silent)).toMatchObject({ end_reason: "HEARTBEAT_MISSED" });
    expect(rows.get(agents[9] ?? "")).toMatchObject({ end_reason: "CONNECTION_LOST" });
  } finally {
    await letGo();
  }
  await Promise.all(all);
  expect((await sessions()).get(held)).toMatchObject({ state: "ENDED" });
});

test("of Syncs that end at once those serve that change nothing; the others are left as they were", async () => {
  const { db, agents, clusterId, open, sessions, plain } = await start(20);
  const [ahead = "", decides = "", older = "", runs = "", lost = ""] = agents;
  const journal = { journalId: "disk", journalCounter: 1, stateDigest: "d" };
  for (const counter of [1, 2]) await Promise.all(agents.map((agentId) => open(agentId, { counter }, journal)));
  await db.updateTable("agents").set({ state: "AWAITING_DECISION" }).where("id", "=", decides).execute();
  const deployment = async (agentId: string, observed: number) => {
    const id = newId("deployment");
    const row = { id, agent_id: agentId, cluster_id: clusterId, kind: "test", owner_id: "t", desired: "RUNNING" };
    await db
      .insertInto("deployments")
      .values({ ...row, generation: 1, observed_generation: observed })
      .execute();
    const spec = { deployment_id: id, generation: 1, spec: Buffer.from("x"), digest: "x" };
    await db.insertInto("deployment_generations").values(spec).execute();
    return id;
  };
  const known = await deployment(runs, 1);
  await deployment(lost, 1);
  const told = (agentId: string): Partial<Sync> =>
    agentId === ahead
      ? { deployments: [{ deploymentId: newId("deployment"), generation: 3, digest: "" }] as never }
      : agentId === runs
        ? { deployments: [{ deploymentId: known, generation: 1, digest: "x" }] as never }
        : {};
  const serve = (agentId: string) => {
    const pages = [create(SyncSchema, { ...told(agentId), last: true } as never)];
    return plain.serve({ agentId, epoch: agentId === older ? 1 : 2, journalWhole: true, tellsAll: true, pages });
  };
  const not = new Set([ahead, decides, older, lost]);
  expect(await Promise.all(agents.map(serve))).toEqual(agents.map((agentId) => !not.has(agentId)));
  const rows = await sessions();
  expect(agents.filter((agentId) => rows.get(agentId)?.state === "SERVING")).toEqual(
    agents.filter((agentId) => !not.has(agentId)),
  );
});
