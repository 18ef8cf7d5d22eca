/**
 * RUNNING: starts what is new or changed, waits until all of it is there, then
 * lets the old go; or undoes it.
 *
 * O1: a new instance starts beside the old one, unless both would have the same
 *     port or write to the same volume: then the old one ends first and is
 *     started again if the new one fails.
 * O2: a failed attempt leaves what the record says, and its message says what
 *     that is (R3).
 */
import type { ConvergeEnd, ConvergeProgress, WorkloadProgress } from "../runtime.ts";
import { crashPoint } from "@bowline/kernel";
import { Dependency_Condition } from "@bowline/contract/deployments";
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import type { Plan } from "./plan.ts";
import type { Held, Member } from "./members.ts";
import type { AssignedPort } from "./ports.ts";
import { asRefusal, Refusal } from "./refusal.ts";

/** How long an old instance that had to end may take to be back after a failed update; then the message says that it is not. */
const restoreLimitMs = 20_000;

/** An attempt that was called off. */
class Cancelled extends Error {}

interface Attempt<M extends Member> {
  held: Held<M>;
  ports: RolloutPorts;
  /** Every instance of the new generation, by workload. */
  instances: Map<string, M[]>;
  added: Set<M>;
  leaving: readonly M[];
  /** Old ones that ended to make room (O1). */
  parked: Set<M>;
}

/** What a roll-out needs from its runtime. */
export interface RolloutPorts {
  /** Names its crash points: `<kind>.before-commit`. */
  kind: string;
  /** The number on the host that a port of a spec asks for; undefined: none, or any. */
  hostPort: (port: Port) => number | undefined;
  /** Throws PORT_TAKEN if somebody else has one of them, where that can be seen before a start. */
  claimPorts(workload: string, ports: readonly AssignedPort[]): Promise<void>;
}

export async function rollOut<M extends Member>(
  held: Held<M>,
  spec: Deployment,
  plan: Plan<M>,
  ports: RolloutPorts,
  report: (progress: ConvergeProgress) => void,
  { cancel, quit }: { cancel: AbortSignal; quit: AbortSignal },
): Promise<ConvergeEnd> {
  const attempt: Attempt<M> = {
    held,
    ports,
    instances: new Map(),
    added: new Set(),
    leaving: plan.leaving,
    parked: new Set(),
  };
  try {
    await addInstances(attempt, spec, plan);
    await startAll(attempt, spec, report, AbortSignal.any([cancel, quit]));
  } catch (error) {
    // The next agent gets the same command, and goes on with what is there.
    if (error instanceof Cancelled && (quit.aborted || cancel.reason === "stopping")) return { kind: "cancelled" };
    const refusal = asRefusal(error);
    const holds = await undo(attempt, error instanceof Cancelled);
    if (error instanceof Cancelled) return { kind: "cancelled" };
    if (refusal === undefined) throw error;
    return {
      kind: "failed",
      reason: refusal.reason,
      message: `${refusal.message}; ${holds}`,
      worthRetry: refusal.worthRetry,
    };
  }
  const current = [...attempt.instances.values()].flat();
  crashPoint(`${ports.kind}.before-commit`);
  await held.saveRecord({
    generation: spec.generation,
    settled: true,
    desired: "RUNNING",
    current: current.map(({ definition }) => definition.slot),
    levels: plan.levels,
  });
  crashPoint(`${ports.kind}.after-commit`);
  await Promise.all(plan.leaving.map((instance) => held.removeSlot(instance)));
  return { kind: "succeeded" };
}

async function addInstances<M extends Member>(attempt: Attempt<M>, spec: Deployment, plan: Plan<M>): Promise<void> {
  const { held } = attempt;
  for (const { workload, index, digest, kept } of plan.members) {
    const before = kept ?? held.find(workload.name, index);
    let instance = kept;
    if (instance === undefined) {
      // The same free ports only where the old instance is not in the way (O1).
      const inherits = before !== undefined && (!lives(before) || excludes(before, workload, spec, attempt.ports));
      instance = await held.addSlot(spec, workload, index, digest, inherits ? before.definition.ports : []);
      attempt.added.add(instance);
      const others = instance.definition.ports.filter((port) => !heldBy(attempt.leaving, port.published));
      await attempt.ports.claimPorts(workload.name, others); // before anything is stopped for it
    } else {
      await instance.enter(spec.generation);
      if (!held.isCurrent(instance)) attempt.added.add(instance); // an earlier try of this generation left it
    }
    attempt.instances.set(workload.name, [...(attempt.instances.get(workload.name) ?? []), instance]);
  }
}

/** Starts workloads as their dependencies allow; resolves when all are there. */
async function startAll<M extends Member>(
  attempt: Attempt<M>,
  spec: Deployment,
  report: (progress: ConvergeProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const failing = new AbortController();
  const ends = AbortSignal.any([signal, failing.signal]);
  const progress = new Map<string, WorkloadProgress>();
  const say = (workload: Workload, phase: string, percent: number): void => {
    progress.set(workload.name, { workload: workload.name, phase, percent, message: "" });
    const ready = [...progress.values()].filter((each) => each.percent === 100).length;
    const total = spec.workloads.length;
    report({
      phase: "STARTING",
      percent: Math.floor((ready * 100) / total),
      message: `${ready} of ${total} workloads are there`,
      workloads: [...progress.values()],
    });
  };
  const startOne = async (workload: Workload): Promise<void> => {
    const instances = attempt.instances.get(workload.name) ?? [];
    say(workload, "WAITING", 0);
    for (const { workload: name, condition } of workload.dependsOn) {
      const met = conditions(attempt.held)[condition as keyof ReturnType<typeof conditions>] ?? isStarted;
      await until(attempt, attempt.instances.get(name) ?? [], met, ends);
    }
    if (ends.aborted) throw new Cancelled();
    say(workload, "STARTING", 25);
    for (const instance of instances) await startInstance(attempt, instance, spec);
    await until(attempt, instances, (instance) => attempt.held.readiness(instance).kind === "ready", ends);
    say(workload, "READY", 100);
  };
  const ended = await Promise.allSettled(
    spec.workloads.map((workload) =>
      startOne(workload).catch((error: unknown) => {
        failing.abort(error);
        throw error;
      }),
    ),
  );
  if (failing.signal.aborted && !signal.aborted) throw failing.signal.reason;
  if (ended.some(({ status }) => status === "rejected")) throw new Cancelled();
}

async function startInstance<M extends Member>(attempt: Attempt<M>, instance: M, spec: Deployment): Promise<void> {
  if (attempt.added.has(instance)) {
    const inTheWay = attempt.leaving.filter(
      (old) => lives(old) && excludes(old, instance.workload, spec, attempt.ports),
    );
    for (const old of inTheWay) {
      attempt.parked.add(old);
      await old.stop();
    }
  }
  await instance.start();
}

/** Resolves when `holds` for all of `instances`; throws the refusal of the first that failed, or `Cancelled`. */
function until<M extends Member>(
  attempt: Attempt<M>,
  instances: readonly M[],
  holds: (instance: M) => boolean,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      if (signal.aborted) return settle(() => reject(new Cancelled()));
      for (const instance of instances) {
        const readiness = attempt.held.readiness(instance);
        if (readiness.kind === "failed" && !holds(instance)) return settle(() => reject(readiness.refusal));
      }
      if (instances.every(holds)) settle(resolve);
    };
    const settle = (end: () => void): void => {
      stopLooking();
      signal.removeEventListener("abort", look);
      end();
    };
    const stopLooking = attempt.held.onChange(look);
    signal.addEventListener("abort", look, { once: true });
    look();
  });
}

const isStarted = (instance: Member): boolean => ["running", "backing-off", "exited"].includes(instance.phase().kind);

const conditions = <M extends Member>(held: Held<M>) => ({
  [Dependency_Condition.CONDITION_UNSPECIFIED]: isStarted,
  [Dependency_Condition.STARTED]: isStarted,
  [Dependency_Condition.HEALTHY]: (instance: M) => held.readiness(instance).kind === "ready",
  [Dependency_Condition.COMPLETED]: (instance: M) => {
    const phase = instance.phase();
    return phase.kind === "exited" && phase.exit.code === 0;
  },
});

/** Brings back what the record says (O2). Returns what holds now, for people. */
async function undo<M extends Member>(attempt: Attempt<M>, cancelled: boolean): Promise<string> {
  const { held, added, parked } = attempt;
  const { settled, desired, generation } = held.record;
  await Promise.all([...added].map((instance) => instance.stop()));
  if (!settled) {
    for (const instance of [...attempt.instances.values()].flat()) await instance.stop();
    return "nothing of this deployment runs"; // the slots stay: their logs say why
  }
  await Promise.all([...added].map((instance) => held.removeSlot(instance)));
  const current = [...held.slots.values()].filter((instance) => held.isCurrent(instance));
  if (desired !== "RUNNING") {
    await Promise.all(current.map((instance) => (desired === "PAUSED" ? instance.pause() : instance.stop())));
    return `generation ${generation} (${desired}) holds`;
  }
  for (const instance of parked) await instance.start();
  if (parked.size === 0 || cancelled) return `generation ${generation} runs on`;
  const names = [...new Set([...parked].map(({ workload }) => workload.name))].join(", ");
  try {
    const limit = AbortSignal.timeout(restoreLimitMs);
    await until(attempt, [...parked], (instance) => held.readiness(instance).kind === "ready", limit);
    return `generation ${generation} runs again (${names} had to stop for the update)`;
  } catch (error) {
    const why = error instanceof Refusal ? error.message : `not back within ${restoreLimitMs} ms`;
    return `generation ${generation} does not run fully: ${names} had to stop for the update, and ${why}`;
  }
}

/** Whether something of it executes, or is about to. */
function lives(instance: Member): boolean {
  const { kind } = instance.phase();
  return kind !== "idle" && kind !== "exited";
}

function heldBy(instances: readonly Member[], port: number): boolean {
  return instances.some(({ definition }) => definition.ports.some(({ published }) => published === port));
}

/** Whether an old instance has to end before one of the fresh workload starts (O1). */
function excludes(old: Member, fresh: Workload, spec: Deployment, { hostPort }: RolloutPorts): boolean {
  const fixed = fresh.ports.flatMap((port) => hostPort(port) ?? []);
  return fixed.some((port) => heldBy([old], port)) || sharesVolume(old.workload, fresh, spec);
}

/** Whether both may write to one volume that is not made for two writers. */
function sharesVolume(old: Workload, fresh: Workload, spec: Deployment): boolean {
  const writable = (workload: Workload): string[] =>
    workload.mounts.flatMap(({ source, readOnly }) => (source.case === "volume" && !readOnly ? [source.value] : []));
  const shared = writable(old).filter((name) => writable(fresh).includes(name));
  return shared.some((name) => spec.volumes.find((volume) => volume.name === name)?.accessMode !== "rwx");
}
