/**
 * What of a spec is there already, and what has to be made or has to go.
 */
import { Deployment_Desired } from "@bowline/contract/deployments";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import type { Held, Member } from "./members.ts";
import { levelsOf } from "./order.ts";
import type { Opened } from "./secrets.ts";
import { digestOf, instanceCount, isJob, secretNamesOf } from "./workloads.ts";

/** What a plan needs from its runtime. */
export interface PlanPorts {
  /** Key for digests of secrets. */
  digestKey: string;
  /** What else of a spec makes a definition another one; undefined: nothing. */
  context(spec: Deployment): unknown;
  /** Throws IMAGE_UNAVAILABLE where it can be seen before a start. */
  findProgram(workload: Workload): void;
  openSecrets(sealed: Readonly<Record<string, string>>, names: readonly string[]): Promise<Opened>;
}

/** One member of a workload and the slot that has it already, if any. */
export interface Planned<M extends Member> {
  workload: Workload;
  index: number;
  digest: string;
  /** Runs or rests with the same definition. */
  kept?: M;
}

export interface Plan<M extends Member> {
  members: Planned<M>[];
  /** Slots of the last good generation that have no place in this one. */
  leaving: M[];
  levels: string[][];
}

/** Compares; changes nothing but that it removes what attempts that are over left. Throws refusals. */
export async function makePlan<M extends Member>(
  held: Held<M>,
  spec: Deployment,
  ports: PlanPorts,
  signal: AbortSignal,
): Promise<Plan<M>> {
  const levels = levelsOf(spec);
  const running = spec.desired === Deployment_Desired.RUNNING;
  const names = spec.workloads.flatMap((workload) => secretNamesOf(workload, spec));
  const secrets = await ports.openSecrets(spec.sealedSecrets, names);
  const digests = new Map(
    spec.workloads.map((workload) => [
      workload.name,
      digestOf(workload, spec, secrets, ports.digestKey, ports.context(spec)),
    ]),
  );
  if (running) {
    for (const workload of spec.workloads) ports.findProgram(workload);
  }
  const slots = [...held.slots.values()];
  slots.sort((a, b) => Number(held.isCurrent(b)) - Number(held.isCurrent(a))); // the good one before a candidate
  const members = membersOf(spec).map(({ workload, index }): Planned<M> => {
    const digest = digests.get(workload.name) ?? "";
    const kept = slots.find(
      (slot) =>
        slot.definition.index === index &&
        slot.workload.name === workload.name &&
        slot.definition.digest === digest &&
        (slot.altered?.() ?? "") === "",
    );
    // A job belongs to its generation; only one that is frozen goes on in the next.
    const stale =
      running && isJob(workload) && kept?.state.generation !== spec.generation && kept?.phase().kind !== "paused";
    return { workload, index, digest, ...(kept === undefined || stale ? {} : { kept }) };
  });
  const staying = new Set(members.map(({ kept }) => kept));
  const over = slots.filter((slot) => !held.isCurrent(slot) && !staying.has(slot)); // of attempts that are over
  await held.forwards.drain(
    over.map(({ definition }) => definition.slot),
    signal,
  );
  for (const slot of over) await held.removeSlot(slot);
  return { members, leaving: slots.filter((slot) => held.isCurrent(slot) && !staying.has(slot)), levels };
}

/** The members that a spec asks for. */
export function membersOf(spec: Deployment): { workload: Workload; index: number }[] {
  return spec.workloads.flatMap((workload) =>
    Array.from({ length: instanceCount(workload) }, (_, index) => ({ workload, index })),
  );
}
