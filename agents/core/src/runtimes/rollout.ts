/**
 * RUNNING: starts what is new or changed, waits until all of it is there, asks
 * its gates, leads users to it, then lets the old go; or undoes it.
 *
 *   batches.ts  who starts when    gates.ts  what has to hold    forwards/  who is led to    lateness.ts  who is late
 *
 * O1: a new instance starts beside the old one, unless both would have the same
 *     port or write to the same volume, or the spec says so: then the old one
 *     ends first and is started again if the new one fails.
 * O2: a failed attempt leaves what the record says, and its message says what
 *     that is (R3).
 * O3: forwards change after the gates and before the record: a crash in between
 *     leaves both sides running, and the next agent leads back to the old until
 *     it has come as far again. What goes is drained after the record says so.
 * O4: what had to end first for its successor (O1) is drained before; its
 *     successor is led to as soon as it is there, unless a gate asks it first.
 * O5: where they come some at a time, old ones end as soon as their successors
 *     are there, unless a gate asks those: there are never more beside each
 *     other than are to come at one time.
 *
 * Long because an attempt and its undoing read side by side.
 */
import type { ConvergeEnd, ConvergeProgress, WorkloadProgress } from "../runtime.ts";
import { crashPoint, systemClock } from "@bowline/kernel";
import { Dependency_Condition } from "@bowline/contract/deployments";
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import { batchesOf, heldBy, makesWay, refuseBeside } from "./batches.ts";
import { askGates } from "./gates.ts";
import { mostReasons, tellingWhy } from "./lateness.ts";
import type { Plan } from "./plan.ts";
import type { Held, Member, StoredForward } from "./members.ts";
import { memberAt } from "./places.ts";
import type { AssignedPort } from "./ports.ts";
import { asRefusal, Refusal } from "./refusal.ts";
import { milliseconds } from "./workloads.ts";

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
  /** New ones that took the place of such (O4). */
  successors: Set<M>;
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
  forwards: StoredForward[],
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
    successors: new Set(),
  };
  const signal = AbortSignal.any([cancel, quit]);
  let inconclusive: string | undefined;
  try {
    await addInstances(attempt, spec, plan, forwards);
    await startAll(attempt, spec, report, signal);
    inconclusive = await gate(attempt, spec, report, signal);
    await takeOver(attempt, forwards, report, signal);
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
  const current = slotsOf([...attempt.instances.values()].flat());
  crashPoint(`${ports.kind}.before-commit`);
  await held.saveRecord({
    generation: spec.generation,
    settled: true,
    desired: "RUNNING",
    current,
    levels: plan.levels,
    forwards,
    inconclusive,
  });
  crashPoint(`${ports.kind}.after-commit`);
  if (forwards.length === 0) await held.forwards.close(signal);
  await held.forwards.settle();
  await held.forwards.drain(slotsOf(plan.leaving), signal);
  // The next agent gets the same command: it waits for the rest of the drain.
  if (quit.aborted || cancel.reason === "stopping") return { kind: "cancelled" };
  await Promise.all(plan.leaving.map((instance) => held.removeSlot(instance)));
  return succeeded(inconclusive);
}

function succeeded(inconclusive: string | undefined): ConvergeEnd {
  if (inconclusive === undefined) return { kind: "succeeded" };
  return { kind: "succeeded", remark: { reason: "GATE_INCONCLUSIVE", message: inconclusive } };
}

const slotsOf = (instances: readonly Member[]): string[] => instances.map(({ definition }) => definition.slot);

/** What could not be told. A generation that has taken over is not asked again (R1). */
async function gate<M extends Member>(
  { held, instances }: Attempt<M>,
  spec: Deployment,
  report: (progress: ConvergeProgress) => void,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { settled, generation, desired, inconclusive } = held.record;
  if (settled && desired === "RUNNING" && generation === spec.generation) return inconclusive;
  const told = (done: number, total: number): void =>
    report({
      phase: "GATES",
      percent: 90,
      message: `${done} of ${total} instances have passed their gates`,
      workloads: [],
    });
  const unclear = await askGates(held, spec, (workload) => instances.get(workload) ?? [], told, signal);
  if (signal.aborted) throw new Cancelled();
  return unclear;
}

/** O3. Where an old instance has the port itself, it ends first. */
async function takeOver<M extends Member>(
  attempt: Attempt<M>,
  forwards: StoredForward[],
  report: (progress: ConvergeProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const { held, leaving, ports } = attempt;
  if (forwards.length === 0) return; // ports that are not passed on any more close after the record says so
  const inTheWay = leaving.filter(
    (old) => lives(old) && forwards.some(({ published, protocol }) => heldBy([old], published, protocol)),
  );
  if (inTheWay.length > 0) {
    const names = [...new Set(inTheWay.map(({ workload }) => workload.name))].join(", ");
    const message = `${names} has the port itself and ends before it is passed on: a short gap`;
    report({ phase: "FORWARDING", percent: 95, message, workloads: [] });
    await park(attempt, inTheWay, signal);
  }
  if (signal.aborted) throw new Cancelled();
  crashPoint(`${ports.kind}.before-forwards`);
  await held.forwards.take(forwards, slotsOf([...attempt.instances.values()].flat()));
  crashPoint(`${ports.kind}.after-forwards`);
}

/** Ends old instances, once their connections have gone (O4). */
async function park<M extends Member>(attempt: Attempt<M>, old: readonly M[], signal: AbortSignal): Promise<void> {
  const { held, parked } = attempt;
  for (const one of old) parked.add(one);
  await held.forwards.drain(slotsOf(old), signal);
  if (signal.aborted) throw new Cancelled();
  await Promise.all(old.map((one) => one.stop()));
}

async function addInstances<M extends Member>(
  attempt: Attempt<M>,
  spec: Deployment,
  plan: Plan<M>,
  forwards: readonly StoredForward[],
): Promise<void> {
  const { held } = attempt;
  // Ports that this deployment has passed on so far, and gives to an instance.
  const released = (held.record.forwards ?? []).filter(
    (old) => !forwards.some(({ published, protocol }) => published === old.published && protocol === old.protocol),
  );
  for (const { workload, index, digest, kept } of plan.members) {
    const before = kept ?? memberAt(held, workload.name, index);
    let instance = kept;
    if (instance === undefined) {
      for (const old of attempt.leaving) {
        const refusal = refuseBeside(old, workload, attempt.ports);
        if (refusal !== undefined) throw refusal;
      }
      // The same free ports only where the old instance is not in the way (O1).
      const inherits =
        before !== undefined && (!lives(before) || makesWay(before, workload, index, spec, attempt.ports));
      instance = await held.addSlot(spec, workload, index, digest, inherits ? before.definition.ports : []);
      attempt.added.add(instance);
      const others = instance.definition.ports.filter(
        ({ published, protocol }) =>
          !heldBy(attempt.leaving, published, protocol) &&
          !released.some((old) => old.published === published && old.protocol === protocol),
      );
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
  const say = (workload: Workload, phase: string, percent: number, message = ""): void => {
    progress.set(workload.name, { workload: workload.name, phase, percent, message });
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
    const isThere = (instance: M): boolean => attempt.held.readiness(instance).kind === "ready";
    const batches = batchesOf(workload, instances, (one) => attempt.added.has(one), attempt.leaving);
    for (const [index, batch] of batches.entries()) {
      if (index > 0) await steady(attempt, instances, milliseconds(workload.update?.delay) ?? 0, ends);
      await makeWay(attempt, batch, spec, ends);
      for (const instance of batch) await instance.start();
      const because = (why: string): void => {
        const { phase, percent } = progress.get(workload.name) ?? { phase: "STARTING", percent: 25 };
        const told = [...progress.values()].filter((one) => one.workload !== workload.name && one.message !== "");
        if (told.length < mostReasons) say(workload, phase, percent, why);
      };
      await tellingWhy(attempt.held, batch, because, until(attempt, batch, isThere, ends));
      await succeed(attempt, batch, spec);
      if (index < batches.length - 1) await retire(attempt, batch, spec, ends); // the last ones when all of it is there
      if (batches.length > 1) say(workload, "STARTING", Math.floor((25 + (75 * (index + 1)) / batches.length) * 0.99));
    }
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

/** O1. */
async function makeWay<M extends Member>(
  attempt: Attempt<M>,
  batch: readonly M[],
  spec: Deployment,
  signal: AbortSignal,
): Promise<void> {
  const { added, held, leaving, ports, successors } = attempt;
  const inTheWay = new Set<M>();
  for (const instance of batch) {
    if (!added.has(instance)) continue;
    const { workload, definition } = instance;
    const others = leaving.filter((old) => lives(old) && makesWay(old, workload, definition.index, spec, ports));
    for (const old of others) inTheWay.add(old);
    if (others.length > 0) successors.add(instance);
    // A port that was passed on and is an instance's own from now on.
    const fixed = workload.ports.flatMap((port) => ports.hostPort(port) ?? []);
    const { forwards = [], current } = held.record;
    const stay = forwards.filter(({ published }) => !fixed.includes(published));
    if (stay.length < forwards.length) await held.forwards.take(stay, current);
  }
  if (inTheWay.size > 0) await park(attempt, [...inTheWay], signal);
}

/** O5. */
async function retire<M extends Member>(
  attempt: Attempt<M>,
  batch: readonly M[],
  spec: Deployment,
  signal: AbortSignal,
): Promise<void> {
  const { leaving, parked, successors } = attempt;
  if (spec.gates.some(({ workload }) => workload === batch[0]?.workload.name)) return;
  const over: M[] = [];
  for (const fresh of batch) {
    const { workload, definition } = fresh;
    const isBefore = (old: M): boolean =>
      old.workload.name === workload.name && old.definition.index === definition.index;
    const before = leaving.filter((old) => lives(old) && isBefore(old));
    if (before.length > 0) successors.add(fresh);
    over.push(...before);
  }
  if (over.length === 0) return;
  for (const old of over) parked.add(old);
  await succeed(attempt, batch, spec); // led to before the old ones are drained
  await park(attempt, over, signal);
}

/** O4. */
async function succeed<M extends Member>(attempt: Attempt<M>, batch: readonly M[], spec: Deployment): Promise<void> {
  const { held, leaving, parked, successors, instances } = attempt;
  if (!batch.some((one) => successors.has(one))) return;
  const asked = new Set(spec.gates.map(({ workload }) => workload));
  const there = [...instances.values()].flat().filter((one) => !asked.has(one.workload.name));
  const ready = there.filter((one) => successors.has(one) && held.readiness(one).kind === "ready");
  const kept = [...held.slots.values()].filter((one) => held.isCurrent(one) && !parked.has(one));
  await held.forwards.stage(slotsOf([...kept, ...leaving.filter((one) => !parked.has(one)), ...ready]));
}

/** Resolves after `ms` in which none of those that are there has failed. */
async function steady<M extends Member>(
  { held }: Attempt<M>,
  instances: readonly M[],
  ms: number,
  signal: AbortSignal,
): Promise<void> {
  const ends = new AbortController();
  let refusal: Refusal | undefined;
  const look = (): void => {
    for (const instance of instances) {
      if (instance.phase().kind === "idle") continue; // its turn has not come
      const readiness = held.readiness(instance);
      if (readiness.kind !== "failed") continue;
      refusal = readiness.refusal;
      ends.abort();
    }
  };
  const forget = held.onChange(look);
  await systemClock.sleep(ms, AbortSignal.any([signal, ends.signal]));
  forget();
  if (refusal !== undefined) throw refusal;
  if (signal.aborted) throw new Cancelled();
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
  // Nobody is led to what ends. A forwarder that does not answer must not keep the rest from being undone.
  const unled = (error: unknown): string => `; ${error instanceof Error ? error.message : String(error)}`;
  const led = await held.forwards.settle().then(() => "", unled);
  await Promise.all([...added].map((instance) => instance.stop()));
  if (!settled) {
    for (const instance of [...attempt.instances.values()].flat()) await instance.stop();
    return `nothing of this deployment runs${led}`; // the slots stay: their logs say why
  }
  await Promise.all([...added].map((instance) => held.removeSlot(instance)));
  const current = [...held.slots.values()].filter((instance) => held.isCurrent(instance));
  if (desired !== "RUNNING") {
    await Promise.all(current.map((instance) => (desired === "PAUSED" ? instance.pause() : instance.stop())));
    return `generation ${generation} (${desired}) holds${led}`;
  }
  for (const instance of parked) await instance.start();
  if (parked.size === 0 || cancelled) return `generation ${generation} runs on${led}`;
  const names = [...new Set([...parked].map(({ workload }) => workload.name))].join(", ");
  try {
    const limit = AbortSignal.timeout(restoreLimitMs);
    await until(attempt, [...parked], (instance) => held.readiness(instance).kind === "ready", limit);
    return `generation ${generation} runs again (${names} had to stop for the update)${led}`;
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
