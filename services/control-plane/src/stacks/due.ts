/** What time and arriving agents do to stacks: due steps, and services that belong to agents that came. */
import { isDeepStrictEqual } from "node:util";
import { isProblem } from "@bowline/kernel";
import { sql } from "kysely";
import { transact } from "../platform/transactions.ts";
import type { StackPorts } from "./ports.ts";
import { modelOf } from "./revisions.ts";
import { placed, type Waiting } from "./rollout-rows.ts";
import { endRefused } from "./rollout-ends.ts";
import { advance, beginRollout } from "./rollouts.ts";
import { holdRows, itself, lockName, type StackRow, touchStacks } from "./rows.ts";
import { refusalAsItStands, refusedByPolicy } from "./standing.ts";

/** Rollouts that one round takes on; the next finds the rest. */
const roundSize = 100;

/** What a step is refused with for what it is, and not for how the server is doing. */
const refusals: readonly string[] = ["failed_precondition", "not_found", "invalid_argument"];

/** A step that failed is tried again after this. */
const againAfterSeconds = 15;

/** Takes a step of each rollout that is due. One that fails does not keep the others from theirs. */
export async function stepDue(ports: StackPorts): Promise<void> {
  const { db, log } = ports.engine();
  const rows = await db
    .selectFrom("stack_rollouts")
    .select("id")
    .where("ended_at", "is", null)
    .where("due_at", "<=", sql<Date>`clock_timestamp()`)
    .orderBy("due_at")
    .limit(roundSize)
    .execute();
  for (const { id } of rows) {
    try {
      await advance(ports, id);
    } catch (error) {
      log.warn({ error, rolloutId: id }, "a step of a rollout could not be taken");
      await afterFailedStep(ports, id, error);
    }
  }
}

/** What is refused is refused again, and ends the rollout; the rest may be the database's trouble, and waits. */
async function afterFailedStep(ports: StackPorts, id: string, error: unknown): Promise<void> {
  const { db, log } = ports.engine();
  try {
    if (isProblem(error) && refusals.includes(error.code))
      await endRefused(ports, id, { reason: error.reason, message: error.message });
    else
      await db
        .updateTable("stack_rollouts")
        .set({ due_at: sql`now() + make_interval(secs => ${againAfterSeconds})` })
        .where("id", "=", id)
        .where("ended_at", "is", null)
        .execute();
  } catch (unwritten) {
    log.warn({ error: unwritten, rolloutId: id }, "a step of a rollout could not be put off");
  }
}

/** Agents came or went: what waits for one is looked at. */
export async function lookAtOpen(ports: StackPorts): Promise<void> {
  await sql`UPDATE stack_rollouts SET due_at = now() WHERE ended_at IS NULL AND state = 'RUNNING'`.execute(
    ports.engine().db,
  );
}

/** How long until the next one is due by time alone, ms; at most `mostMs`. */
export async function untilDue(ports: StackPorts, mostMs: number): Promise<number> {
  const { rows } = await sql<{ ms: number | null }>`
    SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8 * 1000 AS ms
    FROM stack_rollouts WHERE ended_at IS NULL`.execute(ports.engine().db);
  return Math.min(mostMs, Math.max(0, rows[0]?.ms ?? mostMs));
}

/** Places what waits for agents, and what belongs on agents that came or got a label since. */
export async function placeStacks(ports: StackPorts): Promise<void> {
  const { db, log } = ports.engine();
  for (let after = ""; ;) {
    const rows = await db
      .selectFrom("stacks as s")
      .select("s.id")
      .where("s.id", ">", after)
      .where("s.state", "in", ["ROLLING_OUT", "RUNNING", "FAILED"])
      .where(
        sql<boolean>`NOT EXISTS (SELECT 1 FROM stack_rollouts AS r WHERE r.stack_id = s.id AND r.ended_at IS NULL)`,
      )
      .orderBy("s.id")
      .limit(roundSize)
      .execute();
    for (const { id } of rows) {
      try {
        await placeAnew(ports, id);
      } catch (error) {
        log.warn({ error, stackId: id }, "a stack could not be placed; tried again");
      }
    }
    after = rows.at(-1)?.id ?? "";
    if (rows.length < roundSize) return;
  }
}

async function placeAnew(ports: StackPorts, stackId: string): Promise<void> {
  const { db } = ports.engine();
  const at = await db.selectFrom("stacks").selectAll().where("id", "=", stackId).executeTakeFirst();
  if (at === undefined) return; // deleted since
  const model = await modelOf(db, stackId, at.revision);
  const known = await db.selectFrom("stack_targets").selectAll().where("stack_id", "=", stackId).execute();
  const now = await db.transaction().execute((tx) => placed(tx, at, model, known));
  const allowed = at.reason === refusedByPolicy ? { reason: "", message: "" } : {};
  if (isSame(now.placement, known)) return say(ports, at, { waits: now.waits, ...allowed });
  const refused = await transact(db, async (work) => {
    const cluster = await ports.lockClusterForChange(work.tx, at.cluster_id);
    if (cluster === undefined || cluster.deleting || !cluster.isActive) return undefined;
    await lockName(work.tx, at.organisation_id, at.name);
    const held = await holdRows(work.tx, stackId);
    if (held.stack.version !== at.version) return undefined; // the next round looks again
    const refusal = addsSome(now.placement, held.targets)
      ? await refusalAsItStands(ports, work.tx, held.stack, held.stack.revision)
      : undefined;
    if (refusal !== undefined) return refusal;
    await beginRollout(ports, work, itself, held, {
      to: held.stack.revision,
      cause: "place",
      policy: held.stack.policy,
    });
    return undefined;
  });
  // What runs stays; an operator hears why it does not follow.
  if (refused !== undefined) await say(ports, at, { reason: refused.reason, message: refused.message });
}

/** Nothing moves, but why may be something else than it was: what the agents lack, or what the policy refuses. */
async function say(
  ports: StackPorts,
  at: StackRow,
  told: { waits?: readonly Waiting[]; reason?: string; message?: string },
): Promise<void> {
  const { waits = at.waits, reason = at.reason, message = at.message } = told;
  if (isDeepStrictEqual([at.waits, at.reason, at.message], [waits, reason, message])) return;
  await transact(ports.engine().db, async (work) => {
    const { numUpdatedRows } = await work.tx
      .updateTable("stacks")
      .set({ waits: JSON.stringify(waits), reason, message })
      .where("id", "=", at.id)
      .where("version", "=", at.version)
      .executeTakeFirst();
    if (numUpdatedRows > 0n) await touchStacks(ports.engine(), work, [at.id]);
  });
}

/** Whether an agent is to have more of a service than it is to have now. */
function addsSome(
  placement: ReadonlyMap<string, Readonly<Record<string, number>>>,
  targets: readonly { agent_id: string; wanted: Record<string, number> }[],
): boolean {
  const now = new Map(targets.map((target) => [target.agent_id, target.wanted]));
  return [...placement].some(([agentId, wanted]) =>
    Object.entries(wanted).some(([service, count]) => count > (now.get(agentId)?.[service] ?? 0)),
  );
}

function isSame(
  placement: ReadonlyMap<string, Readonly<Record<string, number>>>,
  targets: readonly { agent_id: string; wanted: Record<string, number> }[],
): boolean {
  const text = (wanted: Readonly<Record<string, number>>): string =>
    JSON.stringify(Object.entries(wanted).toSorted(([a], [b]) => (a < b ? -1 : 1)));
  const present = targets.filter((target) => Object.keys(target.wanted).length > 0);
  return (
    present.length === placement.size &&
    present.every((target) => text(target.wanted) === text(placement.get(target.agent_id) ?? {}))
  );
}
