/**
 * Makes a spec true for one deployment.
 *
 *   plan.ts     what is there already
 *   rollout.ts  starts what changed, beside or instead of what runs, or undoes it
 *   order.ts    who waits for whom      members.ts  what is held and stored
 *
 * C1: what the spec does not change is not touched.
 * C2: nothing is stopped before everything that can be checked has been.
 * C3: the record changes in one write, after the new generation is there and
 *     before the old one goes: a crash in between leaves both, never none.
 */
import type { ConvergeEnd, ConvergeProgress } from "../runtime.ts";
import { crashPoint } from "@bowline/kernel";
import { Deployment_Desired } from "@bowline/contract/deployments";
import type { Deployment } from "@bowline/contract/deployments";
import type { Held, Member, StoredForward } from "./members.ts";
import { memberAt } from "./places.ts";
import { makePlan } from "./plan.ts";
import type { Plan, PlanPorts } from "./plan.ts";
import { asRefusal, invalid } from "./refusal.ts";
import type { RolloutPorts } from "./rollout.ts";
import { rollOut } from "./rollout.ts";

/** What a converge needs from its runtime. */
export interface ConvergePorts extends PlanPorts, RolloutPorts {
  /** Throws a refusal for the first thing that the spec says wrong, or that this runtime cannot do. */
  check(spec: Deployment): void;
  /** Ends what carries this deployment's marks and no slot knows: a newer wish of it names them (R2). */
  endStrays(): Promise<void>;
  /** Makes volumes and whatever else instances need before they are made. `making`: the workloads that get new ones. */
  prepare(
    spec: Deployment,
    making: ReadonlySet<string>,
    report: (progress: ConvergeProgress) => void,
    cancel: AbortSignal,
  ): Promise<void>;
  /** Removes volumes that are not kept, or all, and whatever else `prepare` made. */
  clear(volumes: Readonly<Record<string, boolean>>, all: boolean): Promise<void>;
}

/**
 * Aborts: called off, and undone; or the agent ends, and everything stays as it
 * is for the next one. A `cancel` with the reason "stopping" is a `quit`: so
 * the agent's core says that it ends.
 */
export interface Interruptions {
  cancel: AbortSignal;
  quit: AbortSignal;
}

/** Returns expected ends; throws for defects only. */
export async function converge<M extends Member>(
  held: Held<M>,
  spec: Deployment,
  ports: ConvergePorts,
  report: (progress: ConvergeProgress) => void,
  interruptions: Interruptions,
): Promise<ConvergeEnd> {
  try {
    if (spec.desired === Deployment_Desired.ABSENT) return await remove(held, spec, ports, interruptions);
    ports.check(spec);
    await ports.endStrays();
    const plan = await makePlan(held, spec, ports, AbortSignal.any([interruptions.cancel, interruptions.quit]));
    const forwards = await held.forwards.assign(spec);
    const volumes = Object.fromEntries(spec.volumes.map(({ name, keep }) => [name, keep]));
    await held.saveRecord({ volumes: { ...held.record.volumes, ...volumes }, labels: spec.labels });
    const making = new Set(plan.members.filter(({ kept }) => kept === undefined).map(({ workload }) => workload.name));
    await ports.prepare(spec, making, report, AbortSignal.any([interruptions.cancel, interruptions.quit]));
    switch (spec.desired) {
      case Deployment_Desired.RUNNING:
        return await rollOut(held, spec, plan, forwards, ports, report, interruptions);
      case Deployment_Desired.STOPPED:
        return await rest(held, spec, plan, forwards, "STOPPED", interruptions);
      case Deployment_Desired.PAUSED:
        return await rest(held, spec, plan, forwards, "PAUSED", interruptions);
      default:
        throw invalid(`desired is ${spec.desired}`);
    }
  } catch (error) {
    const refusal = asRefusal(error);
    if (refusal === undefined) throw error;
    const { generation, settled, desired } = held.record;
    const holds = settled && desired !== "ABSENT" ? `; generation ${generation} (${desired}) still holds` : "";
    return { kind: "failed", reason: refusal.reason, message: refusal.message + holds, worthRetry: refusal.worthRetry };
  }
}

/** STOPPED and PAUSED: nothing executes; definitions, volumes and, if paused, memory stay. */
async function rest<M extends Member>(
  held: Held<M>,
  spec: Deployment,
  plan: Plan<M>,
  forwards: StoredForward[],
  desired: "STOPPED" | "PAUSED",
  { cancel, quit }: Interruptions,
): Promise<ConvergeEnd> {
  const signal = AbortSignal.any([cancel, quit]);
  if (desired === "STOPPED") await held.forwards.close(signal);
  if (signal.aborted && endsWithAgent({ cancel, quit })) return { kind: "cancelled" }; // the next agent goes on with the drain
  await inLevels(held, plan.levels, async (instance) => {
    const kept = plan.members.some((member) => member.kept === instance);
    await (desired === "PAUSED" && kept ? instance.pause() : instance.stop());
  });
  const current: string[] = [];
  for (const { workload, index, digest, kept } of plan.members) {
    const before = kept ?? memberAt(held, workload.name, index);
    const instance = kept ?? (await held.addSlot(spec, workload, index, digest, before?.definition.ports ?? []));
    current.push(instance.definition.slot);
  }
  const { generation } = spec;
  await held.saveRecord({ generation, settled: true, desired, current, levels: plan.levels, forwards });
  await held.forwards.settle();
  for (const instance of plan.leaving) await held.removeSlot(instance);
  return { kind: "succeeded" };
}

/** ABSENT: nothing is left but volumes that outlive the deployment. Carried through whatever aborts. */
async function remove<M extends Member>(
  held: Held<M>,
  spec: Deployment,
  ports: ConvergePorts,
  { cancel, quit }: Interruptions,
): Promise<ConvergeEnd> {
  const named = Object.fromEntries(spec.volumes.map(({ name, keep }) => [name, keep]));
  const volumes = { ...held.record.volumes, ...named };
  await held.saveRecord({ desired: "ABSENT", volumes });
  crashPoint(`${ports.kind}.before-removal`);
  await held.forwards.close(AbortSignal.any([cancel, quit]));
  if (endsWithAgent({ cancel, quit })) return { kind: "cancelled" }; // the next agent goes on with the drain
  await inLevels(held, held.record.levels, (instance) => instance.stop());
  await ports.endStrays();
  for (const instance of [...held.slots.values()]) await held.removeSlot(instance);
  await ports.clear(volumes, spec.removeVolumes);
  crashPoint(`${ports.kind}.before-erasure`);
  await held.forwards.erase();
  await held.erase();
  return { kind: "succeeded" };
}

function endsWithAgent({ cancel, quit }: Interruptions): boolean {
  return quit.aborted || (cancel.aborted && cancel.reason === "stopping");
}

/** Calls `each` for every instance: dependants first, those of one level at once. */
async function inLevels<M extends Member>(
  held: Held<M>,
  levels: readonly (readonly string[])[],
  each: (instance: M) => Promise<void>,
): Promise<void> {
  const left = new Set(held.slots.values());
  const takeLevel = (names: readonly string[] | undefined): M[] =>
    [...left].filter(({ workload }) => names === undefined || names.includes(workload.name));
  // What no level names belongs to an older generation: nothing waits for it.
  const named = levels.flat();
  const unnamed = [...left].filter(({ workload }) => !named.includes(workload.name));
  for (const batch of [unnamed, ...levels.toReversed().map(takeLevel)]) await Promise.all(batch.map(each));
}
