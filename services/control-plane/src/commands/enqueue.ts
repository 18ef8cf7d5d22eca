/**
 * Converge: a wish becomes a generation and a durable command, in the
 * transaction of the domain change.
 *
 * E3: the deployment's row is locked before its open commands are looked at, so
 *     that an end of the command ahead comes before or after, never between.
 * E4: READY where nothing is open, else BLOCKED; two unique indexes refuse more.
 */
import type { Database } from "@bowline/db";
import { newId } from "@bowline/kernel";
import { noTraces } from "@bowline/traces";
import { type InsertObject, sql } from "kysely";
import { addGenerations, type Wish, type WishedDeployment } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
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

/** Removals and stops go first. */
const reducingPriority = 0;

export interface ConvergeWish extends Wish {
  productPublishId?: string;
  /** Kind of the owner whose slice hears of this command; `kind` of the deployment if unset. */
  ownerKind?: string;
  limits?: Partial<Limits>;
  createdBy: string;
  retryOf?: string;
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
 * superseded; what is in flight is ended first if the new wish stops or removes.
 */
export async function converge(ports: EnginePorts, work: Work, wishes: readonly ConvergeWish[]): Promise<Enqueued[]> {
  const { tx } = work;
  const { traces = noTraces } = ports;
  const wished = await addGenerations(tx, wishes); // E3: locks the deployments, in order of id
  const set = changeSet();
  const enqueued: Enqueued[] = [];
  const known = wished.filter((deployment) => !deployment.isNew).map((deployment) => deployment.id);
  const openOf = Map.groupBy(await lockCommands(tx, { openOf: known }), (command) => command.deploymentId);
  const commands: InsertObject<Database, "commands">[] = [];
  const states: InsertObject<Database, "command_states">[] = [];
  for (const [index, wish] of wishes.entries()) {
    const deployment = wished[index];
    if (deployment === undefined) continue;
    const commandId = newId("command");
    const reduces = deployment.desired !== "RUNNING";
    let blocked = false;
    for (const command of openOf.get(deployment.id) ?? []) {
      apply(ports, work, command, { kind: "newer", reduces }, set, {
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
      priority: reduces ? reducingPriority : limits.priority,
      reduces,
      state: blocked ? "BLOCKED" : "READY", // E4
    });
    enqueued.push({ commandId, deploymentId: deployment.id, generation: deployment.generation });
    await ports.events.note(work, [
      { topic: "command", subjectId: commandId, organisationId: wish.organisationId, clusterId: wish.clusterId },
    ]);
  }
  await write(ports, work, set); // what is superseded makes room in the indexes of E4
  if (commands.length > 0) {
    await tx.insertInto("commands").values(commands).execute();
    await tx.insertInto("command_states").values(states).execute();
  }
  await tellOwners(ports, work, set.changes);
  work.after(() => ports.signals.wake([...new Set(wishes.map((wish) => wish.agentId))]));
  return enqueued;
}

function rowOf(
  commandId: string,
  wish: ConvergeWish,
  deployment: WishedDeployment,
  limits: Limits,
): InsertObject<Database, "commands"> {
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
    deadline_at:
      limits.deadlineMs === undefined ? null : sql<Date>`now() + make_interval(secs => ${limits.deadlineMs / 1000})`,
    retry_of: wish.retryOf ?? "",
    created_by: wish.createdBy,
  };
}
