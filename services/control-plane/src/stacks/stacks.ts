/** What people wish of stacks beside apply.ts: down, stop, start, restart, roll back. Each under the stack's name (H1). */
import { create, fromBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { RolloutPolicySchema } from "@bowline/contract/stacks";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { converge } from "../commands/index.ts";
import { by, type Caller } from "../platform/context.ts";
import { transact, type Tx, type Work } from "../platform/transactions.ts";
import { absentSpec } from "./compile.ts";
import type { StackPorts } from "./ports.ts";
import { modelOf } from "./revisions.ts";
import { endOpen } from "./rollout-rows.ts";
import { beginRollout } from "./rollouts.ts";
import {
  audited,
  getStack,
  type HeldStack,
  holdRows,
  itself,
  limitsOf,
  lockName,
  noteStacks,
  type StackRow,
  type TargetRow,
} from "./rows.ts";
import { refuseAsItStands } from "./standing.ts";

/** Removes it everywhere. Asked again it removes more, or does nothing new. */
export async function down(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  request: { id: string; removeVolumes: boolean },
): Promise<string> {
  const held = await hold(ports, work, caller, request.id, { gone: request.removeVolumes });
  const { stack, targets } = held;
  const kept = request.removeVolumes ? await withKeptVolumes(work.tx, stack) : [];
  if (stack.state === "DELETED" && kept.length === 0) return stack.id;
  await endOpen(work, stack.id, { state: "ABORTED", reason: "STACK_DELETING" });
  const limits = limitsOf(stack);
  const there = targets.filter((target) => target.generation > 0);
  const isRemoving = stack.desired === "ABSENT";
  const owing = isRemoving && !request.removeVolumes ? [] : [...there, ...kept];
  const enqueued = await converge(
    ports.engine(),
    work,
    owing.map((target) => ({
      deploymentId: target.deployment_id,
      agentId: target.agent_id,
      clusterId: stack.cluster_id,
      organisationId: stack.organisation_id,
      kind: "stack",
      ownerId: stack.id,
      limits,
      ...by(caller),
      revision: target.revision,
      build: () => absentSpec(stack.name, request.removeVolumes, limits.runTimeoutMs),
    })),
  );
  for (const [index, target] of owing.entries()) {
    const command = enqueued[index];
    if (command === undefined) continue;
    const { agent_id, deployment_id } = target;
    const values = {
      ...{ generation: command.generation, command_id: command.commandId, wanted: "{}", state: "REMOVING" },
      ...{ reason: "", message: "" },
    };
    await work.tx
      .insertInto("stack_targets")
      .values({ stack_id: stack.id, agent_id, deployment_id, ...values })
      .onConflict((conflict) =>
        conflict
          .columns(["stack_id", "agent_id"])
          .doUpdateSet({ ...values, updated_at: sql`now()` })
          // An agent has one row: what it has beside the newest of it is waited for by its command alone.
          .where("stack_targets.deployment_id", "=", deployment_id),
      )
      .execute();
  }
  await work.tx.deleteFrom("stack_targets").where("stack_id", "=", stack.id).where("generation", "=", 0).execute();
  await change(ports, work, stack, {
    desired: "ABSENT",
    state: there.length + kept.length === 0 ? "DELETED" : "DELETING",
    reason: "",
    message: "",
  });
  if (there.length + kept.length === 0) await ports.dropSecrets(work.tx, [stack.id]); // X2
  if (!isRemoving || request.removeVolumes)
    await audited(ports, work, caller, stack, "down", { removeVolumes: request.removeVolumes });
  return stack.id;
}

/** More than any stack has had; what is beyond is found when it is asked again. */
const mostKept = 1_000;

/**
 * What is removed already of this stack, or of one that had its name before, and had to leave its volumes: after a
 * `down` that kept them, or where a service moved to another agent.
 */
async function withKeptVolumes(tx: Tx, stack: StackRow): Promise<Kept[]> {
  const { rows } = await sql<Kept & { spec: Buffer }>`
    SELECT d.id AS deployment_id, d.agent_id, 0 AS revision, g.spec FROM deployments AS d
    JOIN stacks AS s ON s.id = d.owner_id JOIN agents AS a ON a.id = d.agent_id
    JOIN deployment_generations AS g ON g.deployment_id = d.id AND g.generation = d.generation
    WHERE d.kind = 'stack' AND d.desired = 'ABSENT' AND a.state = 'ENROLLED'
      AND s.organisation_id = ${stack.organisation_id} AND s.name = ${stack.name} AND s.cluster_id = ${stack.cluster_id}
      AND NOT EXISTS (SELECT 1 FROM stack_targets AS t WHERE t.deployment_id = d.id)
    ORDER BY d.id LIMIT ${mostKept}`.execute(tx);
  return rows.filter(({ spec }) => !fromBinary(DeploymentSchema, spec).removeVolumes);
}

type Kept = Pick<TargetRow, "deployment_id" | "agent_id" | "revision">;

/** Removes all that are in a cluster, with their volumes. One that fails does not keep the others. */
export async function downAll(ports: StackPorts, clusterId: string): Promise<void> {
  const { db, log } = ports.engine();
  const rows = await db
    .selectFrom("stacks")
    .select("id")
    .where("cluster_id", "=", clusterId)
    .where("desired", "<>", "ABSENT")
    .orderBy("id")
    .execute();
  for (const { id } of rows) {
    try {
      await transact(db, (work) => down(ports, work, itself, { id, removeVolumes: true }));
    } catch (error) {
      log.warn(
        { error, stackId: id },
        "a stack of a cluster that is being deleted could not be taken down; tried again",
      );
    }
  }
}

/** Stops or starts all of it at once. Throws, of a start, COMPOSE_REFUSED_BY_POLICY. */
export async function stopOrStart(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  id: string,
  desired: "STOPPED" | "RUNNING",
): Promise<string> {
  const held = await hold(ports, work, caller, id, { alive: true });
  const { stack } = held;
  if (stack.desired === desired) return stack.id;
  if (desired === "RUNNING") await refuseAsItStands(ports, work.tx, stack, stack.revision);
  await work.tx.updateTable("stacks").set({ desired }).where("id", "=", stack.id).execute();
  const atOnce = create(RolloutPolicySchema, {
    ...fromBinary(RolloutPolicySchema, stack.policy),
    maxParallel: Math.max(1, held.targets.length),
    minHealthyTime: durationFromMs(0),
    autoRevert: false,
  });
  const wished = { ...held, stack: { ...stack, desired } };
  await beginRollout(ports, work, caller, wished, {
    to: stack.revision,
    cause: desired === "STOPPED" ? "stop" : "start",
    policy: atOnce,
  });
  await audited(ports, work, caller, stack, desired === "STOPPED" ? "stop" : "start", {});
  return stack.id;
}

/** Restarts services, an agent after the other. Throws SERVICE_UNKNOWN, COMPOSE_REFUSED_BY_POLICY. */
export async function restart(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  request: { id: string; services: readonly string[] },
): Promise<string> {
  const held = await hold(ports, work, caller, request.id, { alive: true });
  const { stack } = held;
  const names = (await modelOf(work.tx, stack.id, stack.revision)).services.map((service) => service.name);
  const unknown = request.services.find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw problem("SERVICE_UNKNOWN", `The stack ${stack.name} has no service ${unknown}.`, {
      metadata: { service: unknown },
    });
  await refuseAsItStands(ports, work.tx, stack, stack.revision);
  const stamp = newId("restart");
  const stamps = { ...stack.restart_stamps };
  for (const name of request.services.length === 0 ? names : request.services) stamps[name] = stamp;
  await work.tx
    .updateTable("stacks")
    .set({ restart_stamps: JSON.stringify(stamps) })
    .where("id", "=", stack.id)
    .execute();
  const wished = { ...held, stack: { ...stack, restart_stamps: stamps } };
  await beginRollout(ports, work, caller, wished, { to: stack.revision, cause: "restart", policy: stack.policy });
  await audited(ports, work, caller, stack, "restart", { services: request.services });
  return stack.id;
}

/** Rolls out an earlier revision. Throws NOT_FOUND, NOTHING_TO_ROLL_BACK_TO, COMPOSE_REFUSED_BY_POLICY. */
export async function rollBack(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  request: { id: string; revision: number },
): Promise<string> {
  const held = await hold(ports, work, caller, request.id, { alive: true });
  const { stack } = held;
  const to = request.revision || (await stableBefore(work.tx, stack));
  if (to === undefined) throw problem("NOTHING_TO_ROLL_BACK_TO", `No earlier revision of ${stack.name} was stable.`);
  await refuseAsItStands(ports, work.tx, stack, to);
  await beginRollout(ports, work, caller, held, { to, cause: "rollback", policy: stack.policy });
  await audited(ports, work, caller, stack, "rollback", { to });
  return stack.id;
}

async function stableBefore(tx: Tx, stack: StackRow): Promise<number | undefined> {
  const row = await tx
    .selectFrom("stack_revisions")
    .select("number")
    .where("stack_id", "=", stack.id)
    .where("number", "<>", stack.revision)
    .where("stable_at", "is not", null)
    .orderBy("number", "desc")
    .executeTakeFirst();
  return row?.number;
}

/** A stack that the caller may change, held (H1). Throws NOT_FOUND; STACK_DELETING where it is on its way out. */
async function hold(
  ports: StackPorts,
  work: Work,
  { principal }: Caller,
  idOrName: string,
  { alive = false, gone = false } = {},
): Promise<HeldStack> {
  const at = await getStack(work.tx, principal, idOrName, { gone });
  await ports.lockClusterForChange(work.tx, at.cluster_id);
  await lockName(work.tx, at.organisation_id, at.name);
  const held = await holdRows(work.tx, at.id);
  if (alive && held.stack.desired === "ABSENT")
    throw problem("STACK_DELETING", `The stack ${at.name} is being removed.`);
  return held;
}

async function change(
  ports: StackPorts,
  work: Work,
  stack: StackRow,
  values: { desired: string; state: string; reason: string; message: string },
): Promise<void> {
  const row = await work.tx
    .updateTable("stacks")
    .set({ ...values, version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", stack.id)
    .returning(["id", "organisation_id", "cluster_id"])
    .executeTakeFirstOrThrow();
  await noteStacks(ports.engine(), work, [row]);
}
