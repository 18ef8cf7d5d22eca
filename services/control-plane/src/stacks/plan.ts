/** What an apply would change, and where. Changes nothing. */
import { create, equals, fromBinary } from "@bufbuild/protobuf";
import { DeploymentSchema, type Workload, WorkloadSchema } from "@bowline/contract/deployments";
import {
  type ApplyStackRequest,
  type ApplyStackResponse,
  ApplyStackResponseSchema,
  type ComposeSource,
  type PlannedChange,
  PlannedChange_Action,
  PlannedChangeSchema,
} from "@bowline/contract/stacks";
import type { Caller } from "../platform/context.ts";
import { transact, type Tx } from "../platform/transactions.ts";
import { compileTarget, innerName } from "./compile.ts";
import { readSource, refuseByPolicy } from "./compose-source.ts";
import type { StackPorts } from "./ports.ts";
import { diffModels, modelOf, type StackModel } from "./revisions.ts";
import { placed } from "./rollouts.ts";
import { limitsOf, type StackRow, type TargetRow } from "./rows.ts";
import { clusterFor } from "./stacks.ts";

export interface Planned {
  /** Undefined: it is new. */
  stackId: string | undefined;
  response: Pick<ApplyStackResponse, "warnings" | "plan" | "changes">;
}

/** Throws what ApplyStack throws about its files and cluster. */
export async function planApply(
  ports: StackPorts,
  caller: Caller,
  request: ApplyStackRequest & { source: ComposeSource },
): Promise<Planned> {
  const source = readSource(request.source, request.name);
  return transact(ports.engine().db, async ({ tx }) => {
    const { cluster, before } = await clusterFor(ports, tx, caller, request);
    refuseByPolicy(source, cluster.policy);
    const targets =
      before === undefined
        ? []
        : await tx.selectFrom("stack_targets").selectAll().where("stack_id", "=", before.id).execute();
    const was =
      before === undefined || before.revision === 0 ? undefined : await modelOf(tx, before.id, before.revision);
    const changes = diffModels(was, source.model);
    const plan = await planned(tx, cluster.id, source.model, before, targets);
    return {
      stackId: before?.id,
      response: create(ApplyStackResponseSchema, { warnings: source.warnings, plan, changes }),
    };
  });
}

async function planned(
  tx: Tx,
  clusterId: string,
  model: StackModel,
  stack: StackRow | undefined,
  targets: readonly TargetRow[],
): Promise<PlannedChange[]> {
  const { placement } = await placed(tx, { cluster_id: clusterId }, model, targets);
  const agentIds = [...new Set([...placement.keys(), ...targets.map((target) => target.agent_id)])];
  const names = new Map(
    agentIds.length === 0
      ? []
      : (await tx.selectFrom("agents").select(["id", "name"]).where("id", "in", agentIds).execute()).map(
          (row) => [row.id, row.name] as const,
        ),
  );
  const changes: PlannedChange[] = [];
  for (const agentId of agentIds) {
    const counts = placement.get(agentId) ?? {};
    const target = targets.find((one) => one.agent_id === agentId);
    const there = new Map((await workloadsOf(tx, target)).map((workload) => [workload.name, workload]));
    const wanted = compileTarget(model, counts, {
      ...{ stack: model.name, desired: "RUNNING", stamps: stack?.restart_stamps ?? {}, secretVersions: {} },
      runTimeoutMs: limitsOf(stack ?? { limits: Buffer.alloc(0) }).runTimeoutMs,
    });
    const services = new Set([...Object.keys(counts), ...Object.keys(target?.wanted ?? {})]);
    for (const service of [...services].toSorted()) {
      const is = wanted.workloads?.find((workload) => workload.name === innerName(service));
      changes.push(
        create(PlannedChangeSchema, {
          ...{ agentId, agent: names.get(agentId) ?? agentId, service },
          action: actionOf(there.get(innerName(service)), is),
          count: counts[service] ?? 0,
        }),
      );
    }
  }
  return changes.toSorted((a, b) => (`${a.agent} ${a.service}` < `${b.agent} ${b.service}` ? -1 : 1));
}

/** What the newest generation there has; nothing where there is none. */
async function workloadsOf(tx: Tx, target: TargetRow | undefined): Promise<Workload[]> {
  if (target === undefined || target.generation === 0) return [];
  const row = await tx
    .selectFrom("deployment_generations")
    .select("spec")
    .where("deployment_id", "=", target.deployment_id)
    .where("generation", "=", target.generation)
    .executeTakeFirst();
  return row === undefined ? [] : fromBinary(DeploymentSchema, row.spec).workloads;
}

function actionOf(was: Workload | undefined, is: Workload | undefined): PlannedChange_Action {
  if (is === undefined) return PlannedChange_Action.REMOVE;
  if (was === undefined) return PlannedChange_Action.CREATE;
  const sameBut = (workload: Workload): Workload => create(WorkloadSchema, { ...workload, count: 1 });
  if (!equals(WorkloadSchema, sameBut(was), sameBut(is))) return PlannedChange_Action.REPLACE;
  return was.count === is.count ? PlannedChange_Action.KEEP : PlannedChange_Action.SCALE;
}
