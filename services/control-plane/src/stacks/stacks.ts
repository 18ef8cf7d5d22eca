/** What people wish of stacks: apply, down, stop, start, restart, roll back. Each under the stack's name (H1). */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { CommandLimitsSchema } from "@bowline/contract/products";
import { type ApplyStackRequest, type ComposeSource, RolloutPolicySchema } from "@bowline/contract/stacks";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { converge } from "../commands/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { by, type Caller } from "../platform/context.ts";
import { MovedOn, transact, type Tx, type Work } from "../platform/transactions.ts";
import { absentSpec, secretOf } from "./compile.ts";
import { readSource, refuseByPolicy } from "./compose-source.ts";
import type { StackCluster, StackPorts } from "./ports.ts";
import { addRevision, modelOf } from "./revisions.ts";
import { beginRollout, endOpen } from "./rollouts.ts";
import {
  findStack,
  getStack,
  type HeldStack,
  holdRows,
  itself,
  limitsOf,
  lockName,
  noteStacks,
  type StackRow,
} from "./rows.ts";

/** Throws what ApplyStack documents. Returns the stack's id. */
export async function applyStack(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  request: ApplyStackRequest & { source: ComposeSource },
): Promise<string> {
  const { tx } = work;
  const { principal } = caller;
  const source = readSource(request.source, request.name);
  const { cluster, before } = await clusterFor(ports, tx, caller, request);
  refuseByPolicy(source, cluster.policy);
  await lockName(tx, principal.organisationId, request.name);
  const found = await findStack(tx, principal, request.name);
  if (found?.id !== before?.id) throw new MovedOn("the stack came or went");
  const held = found === undefined ? await made(tx, caller, cluster.id, request.name) : await holdRows(tx, found.id);
  const { stack } = held;
  if (stack.desired === "ABSENT") throw problem("STACK_DELETING", `The stack ${stack.name} is being removed.`);
  for (const [name, value] of source.secrets)
    await ports.keepSecret(tx, stack.organisation_id, secretOf(source.model, name), value);
  const revision = await addRevision(tx, caller, stack, source.model);
  const settings = {
    ...(request.policy === undefined ? {} : { policy: Buffer.from(toBinary(RolloutPolicySchema, request.policy)) }),
    ...(request.limits === undefined ? {} : { limits: Buffer.from(toBinary(CommandLimitsSchema, request.limits)) }),
    desired: "RUNNING", // who applies wants it to run
  };
  await tx.updateTable("stacks").set(settings).where("id", "=", stack.id).execute();
  const wished = { stack: { ...stack, ...settings }, targets: held.targets };
  await beginRollout(ports, work, caller, wished, { to: revision, cause: "apply", policy: wished.stack.policy });
  await audited(ports, work, caller, stack, "apply", { revision, cluster: cluster.name });
  return stack.id;
}

/** The cluster, locked: the one that is named, else the stack's own, else the default. */
export async function clusterFor(
  ports: StackPorts,
  tx: Tx,
  { principal }: Caller,
  { name, clusterId }: ApplyStackRequest,
): Promise<{ cluster: StackCluster; before: StackRow | undefined }> {
  const before = await findStack(tx, principal, name);
  const wanted = clusterId || before?.cluster_id || (await defaultCluster(tx));
  const cluster = await ports.lockCluster(tx, wanted, principal);
  if (before !== undefined && before.cluster_id !== cluster.id)
    throw problem("STACK_ELSEWHERE", `The stack ${name} is in another cluster. Take it down there first.`);
  return { cluster, before };
}

async function defaultCluster(tx: Tx): Promise<string> {
  const row = await tx.selectFrom("clusters").select("id").where("is_default", "=", true).executeTakeFirst();
  if (row === undefined) throw problem("NO_DEFAULT_CLUSTER", "Name a cluster: there is no default one.");
  return row.id;
}

async function made(tx: Tx, { principal }: Caller, clusterId: string, name: string): Promise<HeldStack> {
  const stack = await tx
    .insertInto("stacks")
    .values({
      id: newId("stack"),
      organisation_id: principal.organisationId,
      name,
      cluster_id: clusterId,
      revision: 0,
      created_by: principal.id,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  return { stack, targets: [] };
}

/** Removes it everywhere. Asked again it removes more, or does nothing new. */
export async function down(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  request: { id: string; removeVolumes: boolean },
): Promise<string> {
  const held = await hold(ports, work, caller, request.id);
  const { stack, targets } = held;
  if (stack.state === "DELETED") return stack.id;
  await endOpen(work, stack.id, { state: "ABORTED", reason: "STACK_DELETING" });
  const limits = limitsOf(stack);
  const there = targets.filter((target) => target.generation > 0);
  const isRemoving = stack.desired === "ABSENT";
  const owing = isRemoving && !request.removeVolumes ? [] : there;
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
      build: () => absentSpec(stack.name, request.removeVolumes, limits.runTimeoutMs),
    })),
  );
  for (const [index, target] of owing.entries()) {
    const command = enqueued[index];
    if (command === undefined) continue;
    await work.tx
      .updateTable("stack_targets")
      .set({
        generation: command.generation,
        command_id: command.commandId,
        wanted: "{}",
        state: "REMOVING",
        reason: "",
        message: "",
        updated_at: sql`now()`,
      })
      .where("stack_id", "=", stack.id)
      .where("agent_id", "=", target.agent_id)
      .execute();
  }
  await work.tx.deleteFrom("stack_targets").where("stack_id", "=", stack.id).where("generation", "=", 0).execute();
  await change(ports, work, stack, {
    desired: "ABSENT",
    state: there.length === 0 ? "DELETED" : "DELETING",
    reason: "",
    message: "",
  });
  if (!isRemoving || request.removeVolumes)
    await audited(ports, work, caller, stack, "down", { removeVolumes: request.removeVolumes });
  return stack.id;
}

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

/** Stops or starts all of it at once. */
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

/** Restarts services, an agent after the other. Throws SERVICE_UNKNOWN. */
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

/** Rolls out an earlier revision. Throws NOT_FOUND, NOTHING_TO_ROLL_BACK_TO. */
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
  { alive = false } = {},
): Promise<HeldStack> {
  const at = await getStack(work.tx, principal, idOrName);
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

async function audited(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  stack: StackRow,
  verb: string,
  after: object,
): Promise<void> {
  await audit(ports.engine().events, work, caller, {
    action: `stack.${verb}`,
    resourceKind: "stack",
    resourceId: stack.id,
    organisationId: stack.organisation_id,
    after: { name: stack.name, ...after },
  });
}
