/** Reads of stacks for people: the row, its targets with what runs there, and its newest rollout. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { ObservedInstanceSchema } from "@bowline/contract/deployments";
import {
  type ListStacksRequest,
  type Stack,
  Stack_State,
  StackSchema,
  type StackTarget,
  StackTarget_State,
  StackTargetSchema,
  StackTargetServiceSchema,
  WaitingServiceSchema,
} from "@bowline/contract/stacks";
import { sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";
import { waitText } from "./rollout-rows.ts";
import { shownLimits } from "./rows.ts";
import { serviceOfWorkload } from "./colours.ts";
import { rolloutsOf } from "./history-queries.ts";
import type { StackModel } from "./revisions.ts";

type Filter = Partial<Pick<ListStacksRequest, "clusterId" | "states">> & { ids?: readonly string[] };

function select(db: Db, principal: Principal, { clusterId, states, ids }: Filter) {
  let query = db.selectFrom("stacks as s").innerJoin("clusters as c", "c.id", "s.cluster_id");
  if (!seesAll(principal)) query = query.where("s.organisation_id", "=", principal.organisationId);
  if (clusterId)
    query = query.where((where) => where.or([where("c.id", "=", clusterId), where("c.name", "=", clusterId)]));
  if (states !== undefined && states.length > 0) query = query.where("s.state", "in", states.map(stateName));
  else if (ids === undefined) query = query.where("s.state", "<>", "DELETED");
  if (ids !== undefined) query = query.where("s.id", "in", [...ids]);
  return query;
}

function stateName(state: Stack_State): string {
  return Object.entries(Stack_State).find(([, value]) => value === state)?.[0] ?? "";
}

const columns = [
  ...([
    "s.id",
    "s.organisation_id",
    "s.name",
    "s.cluster_id",
    "s.desired",
    "s.state",
    "s.reason",
    "s.message",
  ] as const),
  ...(["s.revision", "s.stable_revision", "s.rollout_id", "s.version", "s.created_by", "s.created_at"] as const),
  ...(["s.updated_at", "s.limits", "s.waits", "c.name as cluster"] as const),
] as const;

/** Stacks with their targets, as of one moment. */
export async function readStacks(db: Db, principal: Principal, filter: Filter): Promise<Stack[]> {
  return atOneMoment(db, async (tx) => withParts(tx, await select(tx, principal, filter).select(columns).execute()));
}

export async function listStacks(db: Db, principal: Principal, request: ListStacksRequest) {
  const size = pageSize(request.pageSize);
  const [after] = pageKey("stacks", request.pageToken, 1) ?? [];
  const page = await atOneMoment(db, async (tx) => {
    let query = select(tx, principal, request).select(columns);
    // By name; of one name in several organisations by id.
    if (after !== undefined) query = query.where(sql<boolean>`(s.name || ' ' || s.id) COLLATE "C" > ${after}`);
    const rows = await query
      .orderBy(sql`(s.name || ' ' || s.id) COLLATE "C"`)
      .limit(size + 1)
      .execute();
    const cut = cutPage(rows, size, "stacks", (row) => [`${row.name} ${row.id}`]);
    return { stacks: await withParts(tx, cut.rows), nextPageToken: cut.nextPageToken };
  });
  const total = request.returnTotalSize
    ? (
        await select(db, principal, request)
          .select(sql<number>`count(*)::int`.as("count"))
          .executeTakeFirst()
      )?.count
    : undefined;
  return { ...page, totalSize: total };
}

function atOneMoment<T>(db: Db, read: (tx: Db) => Promise<T>): Promise<T> {
  return db.transaction().setIsolationLevel("repeatable read").setAccessMode("read only").execute(read);
}

type Row = Awaited<ReturnType<ReturnType<typeof selected>["execute"]>>[number];
function selected(db: Db, principal: Principal) {
  return select(db, principal, {}).select(columns);
}

async function withParts(db: Db, rows: readonly Row[]): Promise<Stack[]> {
  if (rows.length === 0) return [];
  const ids = rows.map((row) => row.id);
  const targets = Map.groupBy(await readTargets(db, ids), (target) => target.stack_id);
  const models = await db
    .selectFrom("stack_revisions as v")
    .innerJoin("stacks as s", "s.id", "v.stack_id")
    .select(["v.stack_id", "v.number", "v.model"])
    .where("v.stack_id", "in", ids)
    .where(
      sql<boolean>`v.number IN (SELECT t.revision FROM stack_targets AS t WHERE t.stack_id = s.id) OR v.number = s.revision`,
    )
    .execute();
  const rollouts = await rolloutsOf(db, (query) =>
    query.where(
      "r.id",
      "in",
      rows.map((row) => row.rollout_id),
    ),
  );
  const outdated = await outdatedOf(db, ids);
  const modelAt = (stackId: string, number: number): StackModel | undefined =>
    models.find((one) => one.stack_id === stackId && one.number === number)?.model as StackModel | undefined;
  return rows.map((row) => {
    const own = targets.get(row.id) ?? [];
    const stack = create(StackSchema, {
      id: row.id,
      name: row.name,
      clusterId: row.cluster_id,
      cluster: row.cluster,
      state: Stack_State[row.state as keyof typeof Stack_State],
      reason: row.reason,
      message: row.message,
      revision: row.revision,
      stableRevision: row.stable_revision,
      targets: own.map((target) => targetOf(target, modelAt(row.id, target.revision || row.revision))),
      conditions: [...conditionsOf(own), ...(outdated.has(row.id) ? ["SECRETS_OUTDATED"] : [])],
      owingAgents: row.state === "DELETING" ? own.map((target) => target.agent) : [],
      etag: String(row.version),
      createdBy: row.created_by,
      createdAt: timestampFromDate(row.created_at),
      updatedAt: timestampFromDate(row.updated_at),
      organisationId: row.organisation_id,
      limits: shownLimits(row),
    });
    const rollout = rollouts.find((one) => one.id === row.rollout_id);
    if (rollout !== undefined) stack.rollout = rollout;
    const isWanted = row.state !== "DELETED" && row.state !== "DELETING";
    const waits = isWanted ? row.waits : [];
    stack.waiting = waits.map(({ service, lacks }) =>
      create(WaitingServiceSchema, { service, lacks, message: waitText({ service, lacks }) }),
    );
    if (isWanted && (own.length === 0 || waits.length > 0)) {
      stack.conditions.push("NO_AGENT");
      stack.reason ||= "NO_AGENT";
      stack.message ||=
        waits.length > 0
          ? waits.map(waitText).join(" ")
          : "No agent of the cluster can take it yet; it follows when one enrols.";
    }
    return stack;
  });
}

/** Stacks of which a secret has another value by now than their last rollout brought, or none. */
async function outdatedOf(db: Db, stackIds: readonly string[]): Promise<Set<string>> {
  const { rows } = await sql<{ id: string }>`
    SELECT s.id FROM stacks AS s JOIN stack_rollouts AS r ON r.id = s.rollout_id
    WHERE s.id = ANY(${[...stackIds]}) AND s.desired <> 'ABSENT' AND EXISTS (
      SELECT 1 FROM jsonb_each_text(r.secrets) AS brought
      LEFT JOIN secrets AS now ON now.id = split_part(brought.value, '/', 1)
      WHERE now.version::text IS DISTINCT FROM split_part(brought.value, '/', 2))`.execute(db);
  return new Set(rows.map((row) => row.id));
}

async function readTargets(db: Db, stackIds: readonly string[]) {
  return db
    .selectFrom("stack_targets as t")
    .innerJoin("agents as a", "a.id", "t.agent_id")
    .leftJoin("sessions as s", "s.agent_id", "t.agent_id")
    .leftJoin("command_states as cs", "cs.command_id", "t.command_id")
    .leftJoin("command_progress as cp", (join) =>
      join.onRef("cp.command_id", "=", "t.command_id").onRef("cp.attempt", "=", "cs.attempt"),
    )
    .leftJoin("deployments as d", "d.id", "t.deployment_id")
    .selectAll("t")
    .select([
      "a.name as agent",
      "s.state as session_state",
      "s.ended_at",
      "cs.state as command_state",
      "cs.reason as command_reason",
      "cs.message as command_message",
      "cp.phase",
      "cp.percent",
      "cp.message as progress_message",
      "cp.workloads as progress_workloads",
      "d.drifted",
      sql<InstanceRow[]>`coalesce((SELECT jsonb_agg(jsonb_build_object('workload', i.workload, 'index', i.index,
        'phase', i.phase, 'health', i.health, 'restarts', i.restarts, 'exitCode', i.exit_code, 'image', i.image,
        'ports', i.ports, 'reason', i.reason, 'generation', i.generation,
        'observedAt', extract(epoch FROM i.observed_at) * 1000) ORDER BY i.workload, i.index)
        FROM instances AS i WHERE i.deployment_id = t.deployment_id), '[]')`.as("instances"),
    ])
    .where("t.stack_id", "in", [...stackIds])
    .orderBy("a.name")
    .execute();
}

interface InstanceRow {
  workload: string;
  index: number;
  phase: string;
  health: string;
  restarts: number;
  exitCode: number | null;
  image: string;
  ports: { name: string; address: string; published: number }[];
  reason: string;
  generation: number;
  observedAt: number;
}

type ReadTarget = Awaited<ReturnType<typeof readTargets>>[number];

function targetOf(row: ReadTarget, model: StackModel | undefined): StackTarget {
  const away = isAway(row);
  const waits = row.state === "PENDING" || row.state === "WAITING" || row.state === "REMOVING";
  const inFlight = ["ASSIGNED", "RUNNING", "CANCELLING"].includes(row.command_state ?? "");
  const known = [...new Set([...(model?.services.map(({ name }) => name) ?? []), ...Object.keys(row.stable_wanted)])];
  const serviceOf = (workload: string): string => serviceOfWorkload(workload, known) ?? workload;
  const running = Map.groupBy(row.instances, (instance) => serviceOf(instance.workload));
  const names = [...new Set([...Object.keys(row.wanted), ...running.keys()])];
  const workloads = inFlight ? (row.progress_workloads as WorkloadProgress[] | null) : null;
  return create(StackTargetSchema, {
    agentId: row.agent_id,
    agent: row.agent,
    deploymentId: row.deployment_id,
    generation: row.generation,
    revision: row.revision,
    state: StackTarget_State[row.state as TargetStateName],
    commandId: row.command_id,
    reason: waits && away ? "AGENT_OFFLINE" : row.reason || (row.state === "DONE" ? "" : (row.command_reason ?? "")),
    message:
      waits && away ? offlineMessage(row) : row.message || (row.state === "DONE" ? "" : (row.command_message ?? "")),
    progressPercent: row.state === "DONE" ? 100 : inFlight ? (row.percent ?? 0) : 0,
    progressPhase: inFlight ? (row.phase ?? "") : "",
    updatedAt: timestampFromDate(row.updated_at),
    services: names.toSorted().map((service) => {
      const progress = workloads?.find((one) => serviceOf(one.workload) === service);
      return create(StackTargetServiceSchema, {
        service,
        image: model?.services.find((one) => one.name === service)?.image ?? "",
        count: row.wanted[service] ?? 0,
        instances: (running.get(service) ?? []).map((instance) => instanceOf(instance, service)),
        progressPhase: progress?.phase ?? "",
        progressPercent: progress?.percent ?? 0,
        progressMessage: progress?.message ?? "",
      });
    }),
  });
}

interface WorkloadProgress {
  workload: string;
  phase: string;
  percent: number;
  message: string;
}

type TargetStateName = Exclude<keyof typeof StackTarget_State, number>;

function instanceOf(row: InstanceRow, service: string) {
  return create(ObservedInstanceSchema, {
    workload: service,
    index: row.index,
    phase: row.phase,
    health: row.health,
    restarts: row.restarts,
    ...(row.exitCode === null ? {} : { exitCode: row.exitCode }),
    image: row.image,
    addresses: Object.fromEntries(row.ports.map((port) => [port.name, `${port.address}:${port.published}`])),
    reason: row.reason,
    generation: row.generation,
    observedAt: timestampFromDate(new Date(row.observedAt)),
  });
}

function isAway(row: Pick<ReadTarget, "session_state">): boolean {
  return row.session_state === null || row.session_state === "ENDED";
}

function offlineMessage(row: ReadTarget): string {
  const since = row.ended_at === null ? "never connected" : `offline since ${row.ended_at.toISOString()}`;
  return `${since}; it follows when the agent returns.`;
}

function conditionsOf(targets: readonly ReadTarget[]): string[] {
  return [
    ...(targets.some((target) => target.drifted === true) ? ["DRIFTED"] : []),
    ...(targets.some(isAway) ? ["AGENT_OFFLINE"] : []),
  ];
}
