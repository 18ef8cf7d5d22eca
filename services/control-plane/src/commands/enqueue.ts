/**
 * Converge: a wish becomes a generation and a durable command, in the
 * transaction of the domain change.
 *
 * E3: the deployment's row is locked before its open commands are looked at, so
 *     that an end of the command ahead comes before or after, never between.
 * E4: READY where nothing is open, else BLOCKED; two unique indexes refuse more.
 */
import { insertRows, type RowOf } from "@bowline/db";
import { newId } from "@bowline/kernel";
import { noTraces } from "@bowline/traces";
import { sql } from "kysely";
import { addGenerations, type LockedDeployment, type Wish, type WishedDeployment } from "../deployments/index.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { claimAtOnce } from "./claim.ts";
import type { EnginePorts } from "./ports.ts";
import { apply, changeSet, lockCommands, tellOwners, write } from "./store.ts";
import { isWaiting } from "./transitions.ts";

/** How one command behaves; milliseconds. */
export interface Limits {
  /** Tries after the first. */
  maxRetries: number;
  runTimeoutMs: number;
  graceMs: number;
  cancelLimitMs: number;
  offlineLifeMs: number;
  /** From enqueue; undefined: none. */
  deadlineMs: number | undefined;
  /** 0 (most urgent) to 9. */
  priority: number;
}

export const defaultLimits: Limits = {
  maxRetries: 3,
  runTimeoutMs: 300_000,
  graceMs: 30_000,
  cancelLimitMs: 60_000,
  offlineLifeMs: 86_400_000,
  deadlineMs: undefined,
  priority: 5,
};

/** Removals and stops go first: nothing else has this priority, whatever it asks for. */
const reducingPriority = 0;

export interface ConvergeWish extends Wish {
  productPublishId?: string;
  /** Kind of the owner whose slice hears of this command; `kind` of the deployment if unset. */
  ownerKind?: string;
  limits?: Partial<Limits>;
  createdBy: string;
  retryOf?: string;
  /** Ends what is in flight and does not reduce, as a stop would: it may take minutes to fail, and this is the way back. */
  endsAhead?: boolean;
  /** Of the owner, that it is of. */
  revision?: number;
  /** Of which it is a step. */
  rolloutId?: string;
  /** W3C traceparent of the call that wishes it. */
  traceParent?: string;
}

export interface Enqueued {
  commandId: string;
  deploymentId: string;
  generation: number;
}

/**
 * Enqueues one command per wish, in their order. What no agent has yet is
 * superseded; what is in flight is ended first if the new wish stops or removes, or says so. `locked`: the deployments that exist,
 * where the caller has locked them.
 */
export async function converge(
  ports: EnginePorts,
  work: Work,
  wishes: readonly ConvergeWish[],
  locked?: ReadonlyMap<string, LockedDeployment>,
): Promise<Enqueued[]> {
  const { tx } = work;
  const { traces = noTraces } = ports;
  const wished = await addGenerations(tx, wishes, locked); // E3: locks the deployments, in order of id
  const set = changeSet();
  const enqueued: Enqueued[] = [];
  const ready: { commandId: string; agentId: string }[] = [];
  const known = wished.filter((deployment) => !deployment.isNew).map((deployment) => deployment.id);
  const openOf = Map.groupBy(await lockCommands(tx, { openOf: known }), (command) => command.deploymentId);
  const commands: CommandRow[] = [];
  const states: RowOf<typeof stateColumns>[] = [];
  for (const [index, wish] of wishes.entries()) {
    const deployment = wished[index];
    if (deployment === undefined) continue;
    const commandId = newId("command");
    const reduces = deployment.desired !== "RUNNING";
    let blocked = false;
    for (const command of openOf.get(deployment.id) ?? []) {
      const ends = reduces || (wish.endsAhead === true && !command.reduces);
      apply(ports, work, command, { kind: "newer", reduces: ends }, set, {
        ...(isWaiting(command.state) ? { supersededBy: commandId } : {}),
      });
      blocked ||= command.state !== "SUPERSEDED";
    }
    const limits = { ...defaultLimits, ...wish.limits };
    const span = traces.part("command.enqueue", {
      parent: wish.traceParent ?? "",
      attributes: { "bowline.command": commandId, "bowline.deployment": deployment.id, "bowline.agent": wish.agentId },
    });
    work.after(() => span.end());
    commands.push({ ...rowOf(commandId, wish, deployment, limits), trace_parent: span.traceparent });
    states.push({
      command_id: commandId,
      agent_id: wish.agentId,
      deployment_id: deployment.id,
      priority: reduces ? reducingPriority : Math.max(reducingPriority + 1, limits.priority),
      reduces,
      state: blocked ? "BLOCKED" : "READY", // E4
    });
    if (!blocked) ready.push({ commandId, agentId: wish.agentId });
    enqueued.push({ commandId, deploymentId: deployment.id, generation: deployment.generation });
  }
  await ports.events.note(
    work,
    commands.map(({ id, organisation_id: organisationId, cluster_id: clusterId }) => ({
      ...{ topic: "command" as const, subjectId: id, organisationId, clusterId },
    })),
  );
  await write(ports, work, set); // what is superseded makes room in the indexes of E4
  await insertCommands(tx, commands);
  await insertRows(tx, "command_states", stateColumns, states);
  await tellOwners(ports, work, set.changes);
  claimAtOnce(ports, work, ready);
  return enqueued;
}

const stateColumns = {
  text: ["command_id", "agent_id", "deployment_id", "state"],
  int: ["priority"],
  bool: ["reduces"],
} as const;

type CommandRow = ReturnType<typeof rowOf> & { trace_parent: string };

function rowOf(commandId: string, wish: ConvergeWish, deployment: WishedDeployment, limits: Limits) {
  return {
    id: commandId,
    deployment_id: deployment.id,
    agent_id: wish.agentId,
    cluster_id: wish.clusterId,
    organisation_id: wish.organisationId,
    generation: deployment.generation,
    digest: deployment.digest,
    product_publish_id: wish.productPublishId ?? "",
    owner_kind: wish.ownerKind ?? wish.kind,
    owner_id: wish.ownerId,
    is_removal: deployment.desired === "ABSENT",
    reduces: deployment.desired !== "RUNNING",
    max_retries: limits.maxRetries,
    run_timeout_ms: limits.runTimeoutMs,
    grace_ms: limits.graceMs,
    cancel_limit_ms: limits.cancelLimitMs,
    offline_life_ms: limits.offlineLifeMs,
    deadline_seconds: limits.deadlineMs === undefined ? null : limits.deadlineMs / 1000,
    retry_of: wish.retryOf ?? "",
    created_by: wish.createdBy,
    revision: wish.revision ?? 0,
    rollout_id: wish.rolloutId ?? "",
  };
}

/** One statement, whose text stays the same however many there are. */
async function insertCommands(tx: Tx, rows: readonly CommandRow[]): Promise<void> {
  if (rows.length === 0) return;
  const column = <Name extends keyof CommandRow>(name: Name) => rows.map((row) => row[name]);
  await sql`
    INSERT INTO commands (id, deployment_id, agent_id, cluster_id, organisation_id, generation, digest, product_publish_id,
      owner_kind, owner_id, is_removal, reduces, max_retries, run_timeout_ms, grace_ms, cancel_limit_ms, offline_life_ms,
      retry_of, created_by, trace_parent, revision, rollout_id, deadline_at)
    SELECT n.id, n.deployment_id, n.agent_id, n.cluster_id, n.organisation_id, n.generation, n.digest, n.product_publish_id,
      n.owner_kind, n.owner_id, n.is_removal, n.reduces, n.max_retries, n.run_timeout_ms, n.grace_ms, n.cancel_limit_ms,
      n.offline_life_ms, n.retry_of, n.created_by, n.trace_parent, n.revision, n.rollout_id,
      now() + make_interval(secs => n.deadline_seconds)
    FROM unnest(${column("id")}::text[], ${column("deployment_id")}::text[], ${column("agent_id")}::text[],
      ${column("cluster_id")}::text[], ${column("organisation_id")}::text[], ${column("generation")}::int[],
      ${column("digest")}::text[], ${column("product_publish_id")}::text[], ${column("owner_kind")}::text[],
      ${column("owner_id")}::text[], ${column("is_removal")}::bool[], ${column("reduces")}::bool[],
      ${column("max_retries")}::int[], ${column("run_timeout_ms")}::int[], ${column("grace_ms")}::int[],
      ${column("cancel_limit_ms")}::int[], ${column("offline_life_ms")}::int[], ${column("retry_of")}::text[],
      ${column("created_by")}::text[], ${column("trace_parent")}::text[], ${column("revision")}::int[],
      ${column("rollout_id")}::text[], ${column("deadline_seconds")}::float8[])
      AS n (id, deployment_id, agent_id, cluster_id, organisation_id, generation, digest, product_publish_id, owner_kind,
        owner_id, is_removal, reduces, max_retries, run_timeout_ms, grace_ms, cancel_limit_ms, offline_life_ms, retry_of,
        created_by, trace_parent, revision, rollout_id, deadline_seconds)`.execute(tx);
}
