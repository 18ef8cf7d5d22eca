/** Rows of rollouts, and what a step reads beside them. */
import { isHostRight } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx, Work } from "../platform/transactions.ts";
import { type Need, needsOf, rightsLeft, rightsNeeded } from "./needs.ts";
import { policyOf, shapeOf } from "./policy.ts";
import { type Placed, place, type PlaceableAgent } from "./placement.ts";
import type { StackPorts } from "./ports.ts";
import type { StackModel } from "./revisions.ts";
import { type HeldStack, holdRows, lockName, type RolloutRow, type TargetRow } from "./rows.ts";

/** A rollout with all that it holds (H1); undefined where there is none, or its cluster is gone. */
export async function holdRollout(
  ports: StackPorts,
  work: Work,
  rolloutId: string,
): Promise<{ rollout: RolloutRow; held: HeldStack } | undefined> {
  const { tx } = work;
  const at = await tx
    .selectFrom("stack_rollouts as r")
    .innerJoin("stacks as s", "s.id", "r.stack_id")
    .select(["s.id", "s.cluster_id", "s.organisation_id", "s.name"])
    .where("r.id", "=", rolloutId)
    .executeTakeFirst();
  if (at === undefined || (await ports.lockClusterForChange(tx, at.cluster_id)) === undefined) return undefined;
  await lockName(tx, at.organisation_id, at.name);
  const held = await holdRows(tx, at.id);
  const rollout = await tx
    .selectFrom("stack_rollouts")
    .selectAll()
    .where("id", "=", rolloutId)
    .forUpdate()
    .executeTakeFirst();
  return rollout === undefined ? undefined : { rollout, held };
}

export async function reread(tx: Tx, stackId: string): Promise<HeldStack> {
  const targets = await tx
    .selectFrom("stack_targets")
    .selectAll()
    .where("stack_id", "=", stackId)
    .orderBy("agent_id")
    .execute();
  const stack = await tx.selectFrom("stacks").selectAll().where("id", "=", stackId).executeTakeFirstOrThrow();
  return { stack, targets };
}

/** A service of which not all instances found an agent, and what the agents lack that could have it otherwise. */
export interface Waiting {
  service: string;
  lacks: Need[];
}

/** For people. */
export function waitText({ service, lacks }: Waiting): string {
  const [lack] = lacks;
  const named = lacks.map(({ capability }) => `"${capability}"`).join(", ");
  const lacksRights = lacks.every(({ capability }) => capability !== "host-paths" && isHostRight(capability));
  const why =
    lack === undefined
      ? "No agent of the cluster can take all of it yet"
      : lacksRights
        ? `It needs ${named}, which the owners of all hosts that it fits deny their agents (${lack.path})`
        : `It needs ${named}, which no agent of the cluster reports that it fits (${lack.path})`;
  return `${service} waits. ${why}; it follows when one comes.`;
}

/** Where a model's services are to be, from who is there now and where they were, or were last stable. */
export async function placed(
  tx: Tx,
  stack: { cluster_id: string; policy: Uint8Array },
  model: StackModel,
  targets: readonly TargetRow[],
  were: "wanted" | "stable_wanted" = "wanted",
): Promise<{ placement: Placed["placement"]; waits: Waiting[] }> {
  const { rows: agents } = await sql<PlaceableAgent>`
    SELECT a.id, a.name, coalesce(a.reported_labels || a.labels, '{}') AS labels, a.cordoned,
      NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.agent_id = a.id AND s.state = 'SERVING') AS away,
      (SELECT count(*)::int FROM deployments AS d WHERE d.agent_id = a.id AND NOT d.is_absent) AS running,
      (SELECT coalesce(jsonb_agg(had), '[]') FROM jsonb_array_elements_text(a.capabilities) AS had
        WHERE c.capabilities = '[]' OR c.capabilities ? had OR had LIKE 'denies/%') AS capabilities
    FROM agents AS a JOIN clusters AS c ON c.id = a.cluster_id
    WHERE a.cluster_id = ${stack.cluster_id} AND a.state = 'ENROLLED' ORDER BY a.id`.execute(tx);
  const before = new Map(targets.map((target) => [target.agent_id, target[were]]));
  const { forwards } = shapeOf(policyOf(stack.policy));
  const needs = new Map(
    model.services.map((service) => [
      service.name,
      [...needsOf(model, service, forwards(service)), ...rightsNeeded(model, service)],
    ]),
  );
  const found = place(
    model.services.map(({ name, mode, replicas, constraints, maxReplicasPerAgent }) => ({
      ...{ name, mode, replicas },
      needs: (needs.get(name) ?? []).map(({ capability }) => capability),
      mostPerAgent: maxReplicasPerAgent ?? Infinity,
      constraints: constraints.map(({ kind, label, operator, value }) => ({
        subject: kind === "label" ? `labels.${label ?? ""}` : kind,
        equal: operator === "==",
        value,
      })),
    })),
    agents.map((agent) => {
      const { capabilities = [] } = agent;
      return { ...agent, capabilities: [...capabilities, ...rightsLeft(capabilities)] };
    }),
    before,
  );
  const waits = found.nowhere.map((service) => {
    const lacking = found.lacking.get(service) ?? [];
    return { service, lacks: (needs.get(service) ?? []).filter(({ capability }) => lacking.includes(capability)) };
  });
  return { placement: found.placement, waits };
}

/** Ends the rollout that is under way, if there is one. */
export async function endOpen(
  work: Work,
  stackId: string,
  end: { state: "SUPERSEDED" | "ABORTED"; followedBy?: string; reason?: string },
): Promise<void> {
  await work.tx
    .updateTable("stack_rollouts")
    .set({ state: end.state, reason: end.reason ?? "", followed_by: end.followedBy ?? "", ended_at: sql`now()` })
    .where("stack_id", "=", stackId)
    .where("ended_at", "is", null)
    .execute();
}

export async function endAs(
  tx: Tx,
  id: string,
  values: { state: string; reason?: string; message?: string },
): Promise<void> {
  await tx
    .updateTable("stack_rollouts")
    .set({ ...values, due_at: null, ended_at: sql`now()` })
    .where("id", "=", id)
    .execute();
}

export async function bump(tx: Tx, stackId: string) {
  return tx
    .updateTable("stacks")
    .set({ version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", stackId)
    .returning(["id", "organisation_id", "cluster_id"])
    .executeTakeFirstOrThrow();
}

/**
 * How long a rollout waits for an agent that it counts on and that is not served: one that restarts, or whose line
 * broke, is back within the longest pause between two dials (60 s) as a rule.
 */
const returnsWithinMs = 60_000;

/** Whom a step counts on now, and until when at the latest where somebody of them is not served. */
export interface Moment {
  now: Date;
  /** Since when each can be reached, as far as that is known. */
  online: Map<string, Date>;
  until: Date | undefined;
}

/**
 * Who is served; for `returnsWithinMs` also who is about to be for the first time, and who went away in the middle of
 * this rollout: else one that crashes in it would end it as if it had nobody to ask.
 */
export async function moment(
  tx: Tx,
  rollout: Pick<RolloutRow, "id">,
  targets: readonly Pick<TargetRow, "agent_id" | "rollout_id">[],
): Promise<Moment> {
  const { rows } = await sql<{ now: Date; id: string; state: string | null; since: Date | null }>`
    SELECT clock_timestamp() AS now, a.id, s.state,
      CASE WHEN s.state IS NULL THEN a.created_at WHEN s.state = 'ENDED' THEN s.ended_at ELSE s.opened_at END AS since
    FROM agents AS a LEFT JOIN sessions AS s ON s.agent_id = a.id
    WHERE a.id = ANY(${targets.map((target) => target.agent_id)}) ORDER BY a.id`.execute(tx);
  const now = rows.at(-1)?.now ?? new Date();
  const begun = new Set(targets.filter((one) => one.rollout_id === rollout.id).map((one) => one.agent_id));
  const online = new Map<string, Date>();
  let until: number | undefined;
  for (const { id, state, since } of rows) {
    const back = (since?.getTime() ?? 0) + returnsWithinMs;
    const comes = (state !== "ENDED" || begun.has(id)) && now.getTime() < back;
    if (state === "SERVING" || comes) online.set(id, (state === "ENDED" ? undefined : since) ?? new Date(0));
    if (state !== "SERVING" && comes) until = Math.min(until ?? Infinity, back);
  }
  return { now, online, until: until === undefined ? undefined : new Date(until) };
}
