/** The history of tasks where there is much of it: what a page costs, and what each filter finds. */
import { beforeAll, expect, test } from "@jest/globals";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Command_Kind as Kind, Command_State as State, ListCommandsRequestSchema } from "@bowline/contract/commands";
import { newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { systemPrincipal } from "../platform/context.ts";
import type { Db } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { listCommands, pageStatement } from "./queries.ts";

/** Enough that reading all of it shows; a page must not cost more with more. */
const tasks = 12_000;
const everyMs = 60_000;
const pageSize = 20;
/** What a page may read: itself, in both places, with joins and what an index reads besides. */
const mostRead = 10 * pageSize;
const start = Date.now() - tasks * everyMs;

let db: Db;
let engine: TestEngine;

type Filter = MessageInitShape<typeof ListCommandsRequestSchema>;
const asked = (filter: Filter) => create(ListCommandsRequestSchema, { pageSize, ...filter });
const list = (filter: Filter) => listCommands(engine.ports, systemPrincipal, asked(filter));
const at = (index: number) => timestampFromMs(start + index * everyMs);

beforeAll(async () => {
  ({ db } = await testDatabase());
  engine = await startEngine(db);
  engine.ports.owners.set("stack", {
    changed: async () => undefined,
    called: async (_db, _principal, name) => (name === "shop" ? ["stack_rare"] : []),
    names: async () => new Map([["stack_rare", "shop"]]),
  });
  // Of a hundred one each is of an agent, a stack, a person, has failed, removes, stops.
  const rows = Array.from({ length: tasks }, (_, index) => {
    const is = (rest: number): boolean => index % 100 === rest;
    const [created, ended] = [0, 1_500].map((ms) => new Date(start + index * everyMs + ms).toISOString());
    return {
      ...{ id: newId("command", start + index * everyMs), deployment_id: `d${index}`, digest: "", generation: 1 },
      ...{ agent_id: is(1) ? engine.agentId : "agent_other", cluster_id: "c", organisation_id: "" },
      ...{ product_publish_id: "", owner_kind: "stack", owner_id: is(2) ? "stack_rare" : "stack_other" },
      ...{ is_removal: is(5), reduces: is(5) || is(6), max_retries: 3, run_timeout_ms: 300_000, retry_of: "" },
      ...{ created_by: is(3) ? "drift-repair" : "system", priority: 5, attempt: 1, failures: 0 },
      ...{ state: is(4) ? "FAILED" : "SUCCEEDED", reason: is(4) ? "IMAGE_NOT_FOUND" : "", message: "" },
      ...{ superseded_by: "", late_outcome: "", domain_error: "", revision: 7, rollout_id: "rollout_1" },
      ...{ created_at: created, ended_at: ended },
    };
  });
  await sql`INSERT INTO ended_commands
    SELECT r.* FROM jsonb_populate_recordset(NULL::ended_commands, ${JSON.stringify(rows)}::jsonb) AS r`.execute(db);
  await sql`ANALYZE ended_commands, commands, command_states`.execute(db);
});

interface PlanNode {
  "Node Type": string;
  "Actual Rows": number;
  "Actual Loops": number;
  "Rows Removed by Filter"?: number;
  Plans?: PlanNode[];
}

/** Rows that all scans of a plan looked at. */
function rowsRead(node: PlanNode): number {
  const own = node["Node Type"].includes("Scan")
    ? (node["Actual Rows"] + (node["Rows Removed by Filter"] ?? 0)) * node["Actual Loops"]
    : 0;
  return own + (node.Plans ?? []).reduce((sum, child) => sum + rowsRead(child), 0);
}

const filters: [name: string, filter: Filter][] = [
  ["nothing", {}],
  ["an agent", { agentId: "one" }],
  ["a stack", { stack: "shop" }],
  ["a person", { createdBy: "drift-repair" }],
  ["a state", { states: [State.FAILED] }],
  ["several states", { states: [State.FAILED, State.LOST, State.RUNNING, State.SUCCEEDED] }],
  ["a time", { from: at(6_000), to: at(6_010) }],
  ["a stack and a time", { stack: "shop", from: at(1_000), to: at(2_000) }],
  ["a cluster that has none", { clusterId: "nowhere" }],
];

test.each(filters)("a page by %s reads about as much as it shows, first and last", async (_name, filter) => {
  for (const pageToken of ["", (await list(filter)).nextPageToken]) {
    const { statement } = await pageStatement(engine.ports, systemPrincipal, asked({ ...filter, pageToken }));
    const { rows } = await sql<{ "QUERY PLAN": [{ Plan: PlanNode }] }>`
      EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ${statement}`.execute(db);
    expect(rowsRead(rows[0]?.["QUERY PLAN"][0].Plan as PlanNode)).toBeLessThan(mostRead);
  }
});

test("each filter finds what it names, and nothing else", async () => {
  const total = async (filter: Filter) => (await list({ ...filter, returnTotalSize: true })).totalSize;
  expect(await total({ agentId: engine.agentId })).toBe(tasks / 100);
  expect(await total({ stack: "shop" })).toBe(tasks / 100);
  expect(await total({ stack: "shopping" })).toBe(0);
  expect(await total({ createdBy: "nobody" })).toBe(0);
  expect(await total({ states: [State.FAILED, State.LOST] })).toBe(tasks / 100);
  expect(await total({ kinds: [Kind.REMOVE] })).toBe(tasks / 100);
  expect(await total({ kinds: [Kind.STOP, Kind.REMOVE] })).toBe(tasks / 50);
  expect(await total({ from: at(10), to: at(20) })).toBe(10);
  expect(await total({ agentId: "one", states: [State.FAILED] })).toBe(0);
});

test("a task says what it was of, by whom, with which outcome and how long it took", async () => {
  const { commands } = await list({ stack: "shop", pageSize: 1 });
  expect(commands).toMatchObject([
    {
      ...{ stack: "shop", stackId: "stack_rare", revision: 7, rolloutId: "rollout_1", kind: Kind.APPLY },
      ...{ createdByName: "system", state: State.SUCCEEDED, ownerKind: "stack" },
    },
  ]);
  expect(commands.map(({ duration }) => duration && durationMs(duration))).toEqual([1_500]);
});

test("what is open, what ended lately and what has left are one list, newest first", async () => {
  const { commandId } = await engine.enqueue(undefined, undefined, { priority: 2 });
  const { commands } = await list({ createdBy: "tester" });
  expect(commands).toMatchObject([{ id: commandId, state: State.READY, kind: Kind.APPLY, priority: 2, stack: "" }]);
  expect(commands[0]?.duration).toBeUndefined();
  const first = await list({});
  expect(first.commands[0]?.id).toBe(commandId);
  expect(first.commands).toHaveLength(pageSize);
  const second = await list({ pageToken: first.nextPageToken });
  expect(second.commands[0]?.id.localeCompare(first.commands.at(-1)?.id ?? "")).toBe(-1);
});

test("times that no id can tell are taken as they are meant", async () => {
  const total = async (filter: Filter) => (await list({ ...filter, returnTotalSize: true })).totalSize;
  expect(await total({ from: timestampFromMs(-1_000_000), stack: "shop" })).toBe(tasks / 100);
  expect(await total({ to: timestampFromMs(253_402_300_799_000), stack: "shop" })).toBe(tasks / 100);
  expect(await total({ from: timestampFromMs(253_402_300_799_000), stack: "shop" })).toBe(0);
});
