/** Compose files become a stack, or its next revision. */
import { toBinary } from "@bufbuild/protobuf";
import { CommandLimitsSchema } from "@bowline/contract/products";
import { type ApplyStackRequest, type ComposeSource, RolloutPolicySchema } from "@bowline/contract/stacks";
import { newId, problem } from "@bowline/kernel";
import type { Caller } from "../platform/context.ts";
import { MovedOn, type Tx, type Work } from "../platform/transactions.ts";
import { readSource, refuseByCapabilities, refuseByPolicy } from "./compose-source.ts";
import { checkGates } from "./policy.ts";
import type { StackCluster, StackPorts } from "./ports.ts";
import { addRevision } from "./revisions.ts";
import { beginRollout } from "./rollouts.ts";
import { audited, findStack, type HeldStack, holdRows, lockName, type StackRow } from "./rows.ts";

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
  checkGates(request.policy, before?.policy ?? new Uint8Array(), source.model.services);
  refuseByPolicy(source, cluster.policy);
  refuseByCapabilities(source.model, cluster);
  await lockName(tx, principal.organisationId, request.name);
  const found = await findStack(tx, principal, request.name);
  if (found?.id !== before?.id) throw new MovedOn("the stack came or went");
  const held = found === undefined ? await made(tx, caller, cluster.id, request.name) : await holdRows(tx, found.id);
  const { stack } = held;
  if (stack.desired === "ABSENT") throw problem("STACK_DELETING", `The stack ${stack.name} is being removed.`);
  for (const [name, value] of source.secrets) await ports.keepSecret(tx, stack, name, value);
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
