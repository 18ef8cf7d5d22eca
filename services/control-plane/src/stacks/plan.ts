/**
 * What an apply would change, and where. Changes nothing.
 *
 * Contents of configs and values of secrets are compared too, and none is shown.
 */
import { create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type Deployment,
  DeploymentSchema,
  UpdateConfig_Order as Order,
  type Workload,
  WorkloadSchema,
} from "@bowline/contract/deployments";
import { type Change, Change_Kind, ChangeSchema } from "@bowline/contract/products";
import {
  type ApplyStackRequest,
  type ApplyStackResponse,
  ApplyStackResponseSchema,
  type ComposeFinding,
  ComposeFindingSchema,
  type ComposeSource,
  type PlannedChange,
  PlannedChange_Action,
  PlannedChangeSchema,
  RolloutPolicySchema,
} from "@bowline/contract/stacks";
import type { Caller } from "../platform/context.ts";
import { transact, type Tx } from "../platform/transactions.ts";
import { clusterFor } from "./apply.ts";
import { colouredName, workloadName } from "./colours.ts";
import { compileTarget, type Spec } from "./compile.ts";
import { readSource, type ReadSource, refuseByCapabilities, refuseByPolicy } from "./compose-source.ts";
import { checkGates, type Policy, policyOf, shapeOf } from "./policy.ts";
import type { StackPorts } from "./ports.ts";
import { diffModels, modelOf, type StackModel } from "./revisions.ts";
import { placed, type Waiting, waitText } from "./rollout-rows.ts";
import { limitsOf, type StackRow, type TargetRow } from "./rows.ts";
import { canDouble } from "./sides.ts";
import { secretOf, versionsAfter } from "./stack-secrets.ts";

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
    checkGates(request.policy, before?.policy ?? new Uint8Array(), source.model.services);
    refuseByPolicy(source, cluster.policy);
    refuseByCapabilities(source.model, cluster);
    const targets =
      before === undefined
        ? []
        : await tx.selectFrom("stack_targets").selectAll().where("stack_id", "=", before.id).execute();
    const was =
      before === undefined || before.revision === 0 ? undefined : await modelOf(tx, before.id, before.revision);
    const policy =
      request.policy === undefined
        ? (before?.policy ?? new Uint8Array())
        : toBinary(RolloutPolicySchema, request.policy);
    const organisationId = before?.organisation_id ?? caller.principal.organisationId;
    const versions = await versionsAfter(ports, tx, { id: before?.id ?? "", organisation_id: organisationId }, source);
    const given = { targets, policy, versions };
    const { plan, waits, replaced } = await planned(tx, cluster.id, source, before, given);
    const changes = [...diffModels(was, source.model), ...valueChanges(replaced)];
    const warnings = [
      ...source.warnings,
      ...waits.map(waitingFinding),
      ...inPlaceFindings(source.model, policyOf(policy)),
    ];
    return {
      stackId: before?.id,
      response: create(ApplyStackResponseSchema, { warnings, plan, changes }),
    };
  });
}

async function planned(
  tx: Tx,
  clusterId: string,
  { model }: ReadSource,
  stack: StackRow | undefined,
  given: { targets: readonly TargetRow[]; policy: Uint8Array; versions: Readonly<Record<string, string>> },
): Promise<{ plan: PlannedChange[]; waits: Waiting[]; replaced: ReplacedValues }> {
  const { targets, policy, versions } = given;
  const colours = stack?.colours ?? {};
  const { placement, waits } = await placed(tx, { cluster_id: clusterId, policy }, model, targets);
  const agentIds = [...new Set([...placement.keys(), ...targets.map((target) => target.agent_id)])];
  const names = new Map(
    agentIds.length === 0
      ? []
      : (await tx.selectFrom("agents").select(["id", "name"]).where("id", "in", agentIds).execute()).map(
          (row) => [row.id, row.name] as const,
        ),
  );
  const changes: PlannedChange[] = [];
  const replaced: ReplacedValues = new Map();
  for (const agentId of agentIds) {
    const counts = placement.get(agentId) ?? {};
    const target = targets.find((one) => one.agent_id === agentId);
    const there = await specOf(tx, target);
    const wanted = compileTarget(model, counts, {
      ...{ stack: model.name, desired: "RUNNING", stamps: stack?.restart_stamps ?? {}, secretVersions: versions },
      runTimeoutMs: limitsOf(stack ?? { limits: Buffer.alloc(0) }).runTimeoutMs,
      ...{ colours, ...shapeOf(policyOf(policy)) },
    });
    const services = new Set([...Object.keys(counts), ...Object.keys(target?.wanted ?? {})]);
    for (const service of [...services].toSorted()) {
      const workload = workloadName(service, colours);
      const [was, is] = [definitionOf(there, workload), definitionOf(wanted, workload)];
      for (const { source } of model.services.find(({ name }) => name === service)?.secrets ?? []) {
        const secret = colouredName(secretOf(model, source), service, colours);
        const [before = "", after = ""] = [there?.secretVersions[secret], wanted.secretVersions?.[secret]];
        if (before !== "" && before !== after) replaced.set(source, [before, after]);
      }
      changes.push(
        create(PlannedChangeSchema, {
          ...{ agentId, agent: names.get(agentId) ?? agentId, service },
          action: actionOf(was, is),
          count: counts[service] ?? 0,
        }),
      );
    }
  }
  const plan = changes.toSorted((a, b) => (`${a.agent} ${a.service}` < `${b.agent} ${b.service}` ? -1 : 1));
  return { plan, waits, replaced };
}

/** Nothing is wrong, and somebody should know. */
function waitingFinding({ service, lacks }: Waiting): ComposeFinding {
  const [first] = lacks;
  return create(ComposeFindingSchema, {
    reason: "NO_AGENT",
    path: first?.path ?? `services.${service}`,
    message: waitText({ service, lacks }),
  });
}

/** Services that are replaced in place, though they or the policy ask for old and new at one time. */
function inPlaceFindings(model: StackModel, policy: Policy): ComposeFinding[] {
  return model.services
    .filter((service) => !canDouble(service) && !service.job)
    .flatMap((service) => {
      const own = service.update?.order === "start-first";
      if (!own && policy.order !== Order.START_FIRST && policy.strategy === "ROLLING") return [];
      return create(ComposeFindingSchema, {
        reason: "VALUE_IGNORED",
        path: `services.${service.name}${own ? ".deploy.update_config.order" : ""}`,
        message: `${service.name} writes to a volume or a folder of the host, or has another network: old and new can't run at one time, and the old one ends first.`,
      });
    });
}

/** What the newest generation there has; nothing where there is none. */
async function specOf(tx: Tx, target: TargetRow | undefined): Promise<Deployment | undefined> {
  if (target === undefined || target.generation === 0) return undefined;
  const row = await tx
    .selectFrom("deployment_generations")
    .select("spec")
    .where("deployment_id", "=", target.deployment_id)
    .where("generation", "=", target.generation)
    .executeTakeFirst();
  return row === undefined ? undefined : fromBinary(DeploymentSchema, row.spec);
}

/** A workload with what it finds in its files, as far as one can tell them apart by it. */
interface Defined {
  workload: Workload;
  files: string;
}

function definitionOf(spec: Spec | undefined, name: string): Defined | undefined {
  const workload = spec?.workloads?.find((one) => one.name === name);
  if (spec === undefined || workload === undefined) return undefined;
  const files = workload.mounts.map(({ source }) => {
    const file = source.case === "file" ? spec.files?.find((one) => one.name === source.value) : undefined;
    if (file === undefined) return [];
    const { mode, uid, gid, secret, content } = file;
    return [mode, uid, gid, spec.secretVersions?.[secret] ?? "", Buffer.from(content).toString("base64")];
  });
  return { workload, files: JSON.stringify(files) };
}

function actionOf(was: Defined | undefined, is: Defined | undefined): PlannedChange_Action {
  if (is === undefined) return PlannedChange_Action.REMOVE;
  if (was === undefined) return PlannedChange_Action.CREATE;
  const sameBut = ({ workload }: Defined): Workload => create(WorkloadSchema, { ...workload, count: 1, service: "" });
  if (was.files !== is.files || !equals(WorkloadSchema, sameBut(was), sameBut(is))) return PlannedChange_Action.REPLACE;
  return was.workload.count === is.workload.count ? PlannedChange_Action.KEEP : PlannedChange_Action.SCALE;
}

/** Secrets of the stack whose value is another one now, by name, each with its versions, before and after. */
type ReplacedValues = Map<string, [before: string, after: string]>;

/** In words: no value is shown. */
function valueChanges(replaced: ReplacedValues): Change[] {
  const words = (version: string): string => {
    const number = version.split("/")[1];
    return JSON.stringify(number === undefined ? "another value" : `value number ${number}`);
  };
  return [...replaced]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, [before, after]]) =>
      create(ChangeSchema, {
        kind: Change_Kind.CHANGED,
        path: `secrets/${name}/value`,
        before: words(before),
        after: words(after),
      }),
    );
}
