/** What people ask of commands: to end one, to try one again, to converge a deployment anew. */
import { fromBinary } from "@bufbuild/protobuf";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { type Problem, problem } from "@bowline/kernel";
import { type ReconcilePorts, lockDeployments, type NewestWish, newestWishes } from "../deployments/index.ts";
import { by } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";
import { converge, type Enqueued, type Limits } from "./enqueue.ts";
import { findEnded } from "./history.ts";
import type { EnginePorts } from "./ports.ts";
import { apply, changeSet, finish, lockCommands } from "./store.ts";
import { isTerminal } from "./transitions.ts";

/** Asks for a command's end. Throws NOT_FOUND, COMMAND_ENDED, REMOVAL_NOT_CANCELLABLE. */
export async function cancel(ports: EnginePorts, work: Work, commandId: string): Promise<void> {
  const row = await work.tx
    .selectFrom("commands")
    .select("deployment_id")
    .where("id", "=", commandId)
    .executeTakeFirst();
  if (row === undefined) {
    const [left] = await findEnded(work.tx, [commandId]);
    if (left === undefined) throw problem("NOT_FOUND", `There is no command ${commandId}.`);
    throw problem("COMMAND_ENDED", undefined, { metadata: { state: left.state } });
  }
  await lockDeployments(work.tx, [row.deployment_id]);
  const [command] = await lockCommands(work.tx, { ids: [commandId] });
  if (command === undefined) throw problem("NOT_FOUND", `There is no command ${commandId}.`);
  const set = changeSet();
  const verdict = apply(ports, work, command, { kind: "cancel" }, set);
  if (verdict.kind === "refused") {
    throw problem(verdict.why === "REMOVAL_NOT_CANCELLABLE" ? "REMOVAL_NOT_CANCELLABLE" : "COMMAND_ENDED", undefined, {
      metadata: { state: command.state },
    });
  }
  await finish(ports, work, set);
}

/**
 * Makes a new command for the same wish. Throws COMMAND_OPEN, NEWER_GENERATION, DEPLOYMENT_ABSENT.
 * A retry is a generation of its own with the same spec, so that what ran in between can't be mistaken for it.
 */
export async function retry(ports: EnginePorts, work: Work, commandId: string, createdBy: string): Promise<Enqueued> {
  const row = await work.tx.selectFrom("commands").selectAll().where("id", "=", commandId).executeTakeFirst();
  if (row === undefined) throw await replaced(work, commandId);
  const deployment = (await lockDeployments(work.tx, [row.deployment_id])).get(row.deployment_id);
  const [command] = await lockCommands(work.tx, { ids: [commandId] });
  if (deployment === undefined || command === undefined)
    throw problem("NOT_FOUND", `There is no command ${commandId}.`);
  if (!isTerminal(command.state)) throw problem("COMMAND_OPEN", undefined, { metadata: { state: command.state } });
  if (deployment.generation !== row.generation) {
    throw problem("NEWER_GENERATION", undefined, { metadata: { generation: String(deployment.generation) } });
  }
  return again(ports, work, row.deployment_id, {
    createdBy,
    retryOf: commandId,
    productPublishId: row.product_publish_id,
    ownerKind: row.owner_kind,
    revision: row.revision,
    rolloutId: row.rollout_id,
    limits: {
      maxRetries: row.max_retries,
      runTimeoutMs: row.run_timeout_ms,
      graceMs: row.grace_ms,
      cancelLimitMs: row.cancel_limit_ms,
      offlineLifeMs: row.offline_life_ms,
    },
  });
}

/** Why a command that is not among the newest cannot be retried: a newer wish has replaced its own. */
async function replaced(work: Work, commandId: string): Promise<Problem> {
  const [left] = await findEnded(work.tx, [commandId]);
  const deployment = left && (await lockDeployments(work.tx, [left.deploymentId])).get(left.deploymentId);
  if (deployment === undefined) return problem("NOT_FOUND", `There is no command ${commandId}.`);
  if (deployment.isAbsent) return problem("DEPLOYMENT_ABSENT");
  return problem("NEWER_GENERATION", undefined, { metadata: { generation: String(deployment.generation) } });
}

/** How a newest wish is converged once more. */
export interface Again {
  createdBy: string;
  retryOf?: string;
  productPublishId?: string;
  ownerKind?: string;
  revision?: number;
  rolloutId?: string;
  limits?: Partial<Limits>;
  /** See Owner.renewed. */
  fromNothing?: boolean;
  /** As a generation above that one, also of what is gone already. */
  above?: number;
  traceParent?: string;
}

/** Converges a deployment to its newest wish once more. Throws NOT_FOUND, DEPLOYMENT_ABSENT, SPEC_UNKNOWN. */
export async function again(ports: EnginePorts, work: Work, deploymentId: string, how: Again): Promise<Enqueued> {
  await lockDeployments(work.tx, [deploymentId]);
  const wish = (await newestWishes(work.tx, [deploymentId])).get(deploymentId);
  if (wish === undefined) throw problem("NOT_FOUND", `There is no deployment ${deploymentId}.`);
  if (wish.isAbsent && how.above === undefined) throw problem("DEPLOYMENT_ABSENT");
  if (wish.spec.length === 0) throw problem("SPEC_UNKNOWN");
  const [enqueued] = await againAll(ports, work, [{ wish, how }]);
  if (enqueued === undefined) throw problem("INTERNAL");
  return enqueued;
}

/** The same of several, each once; the caller has locked them, and each has a spec that is known and may be wished again. */
async function againAll(
  ports: EnginePorts,
  work: Work,
  renewals: readonly { wish: NewestWish; how: Again }[],
): Promise<Enqueued[]> {
  const last = await lastRevisions(
    work,
    renewals.filter(({ how }) => how.revision === undefined).map(({ wish }) => wish.id),
  );
  const wishes = renewals.map(({ wish, how }) => ({
    deploymentId: wish.id,
    agentId: wish.agentId,
    clusterId: wish.clusterId,
    organisationId: wish.organisationId,
    kind: wish.kind,
    ownerId: wish.ownerId,
    build: () => fromBinary(DeploymentSchema, wish.spec),
    ...last.get(wish.id),
    ...how,
  }));
  const locked = new Map(renewals.map(({ wish }) => [wish.id, wish]));
  const enqueued = await converge(ports, work, wishes, locked);
  for (const [index, { wish, how }] of renewals.entries()) {
    const command = enqueued[index];
    const owner = ports.owners.get(how.ownerKind ?? wish.kind);
    if (command === undefined) throw problem("INTERNAL");
    await owner?.renewed?.(work, { ...command, ownerId: wish.ownerId, fromNothing: how.fromNothing ?? false });
  }
  return enqueued;
}

/** The revision and the rollout of what each deployment is to have now; its newest command never leaves. */
async function lastRevisions(work: Work, deploymentIds: readonly string[]) {
  if (deploymentIds.length === 0) return new Map<string, never>();
  const rows = await work.tx
    .selectFrom("commands")
    .distinctOn("deployment_id")
    .select(["deployment_id", "revision", "rollout_id as rolloutId"])
    .where("deployment_id", "in", [...deploymentIds])
    .orderBy("deployment_id")
    .orderBy("generation", "desc")
    .execute();
  return new Map(rows.map(({ deployment_id: id, ...last }) => [id, last]));
}

/** What ReconcileDeployment does to commands. */
export function renewing(ports: EnginePorts): Pick<ReconcilePorts, "again" | "againAll"> {
  return {
    again: async (work, id, caller) => void (await again(ports, work, id, by(caller))),
    againAll: (work, renewals) =>
      againAll(
        ports,
        work,
        renewals.map(({ wish, caller }) => ({ wish, how: by(caller) })),
      ),
  };
}
