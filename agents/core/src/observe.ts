/**
 * What runs, on its way up: the runtime's watch becomes StateReports, batched
 * and small enough for the stream.
 *
 * B1: observations are numbered over the life of the journal, and a number is
 *     never used twice. Numbers are reserved in blocks, so that not every
 *     report costs an fsync; a restart leaves a gap.
 * B2: after each reconnect everything is told again; in between only what changed,
 *     and what then stays so once more: the server takes two observations that
 *     agree for drift, since one may catch a restart half-way.
 */
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  DeploymentStateSchema,
  StateReportSchema,
  type DeploymentState,
  type StateReport,
} from "@bowline/contract/agent";
import { fullJitter, type Clock } from "@bowline/kernel";
import type { Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import type { ObservedDeployment, Runtime } from "./runtime.ts";

export interface Observer {
  /** Tells everything to `tell`, then what changes, until it is given another; undefined: nobody listens. */
  report(tell: ((report: StateReport) => void) | undefined): void;
  /** Number of the newest observation that was told. */
  readonly observation: number;
  /** Instances that run now. */
  running(): number;
  /** Watches until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Changes within this time share a report. */
const gatherMs = 100;
/** Half of a stream message: room for the envelope and for estimates. */
const maxReportBytes = 32 * 1024;
/** Instances of one deployment per report; with reasons of at most 200 characters they stay below the limit. */
const maxInstances = 100;
const maxReasonCharacters = 200;
/** What stays so for this long is told a second time (B2): above what a restart takes. */
const confirmAfterMs = 3_000;
const reservedNumbers = 1_000;
/** A journal on a full disk is not asked more often. */
const numberAgainMs = 5_000;
/** A watch that fails (the engine is away) is started again. */
const watchAgain = { floorMs: 500, baseMs: 1_000, capMs: 30_000 };

export async function createObserver(ports: {
  runtime: Runtime;
  journal: Journal;
  log: Log;
  clock: Clock;
}): Promise<Observer> {
  const { runtime, journal, log, clock } = ports;
  const newest = new Map<string, ObservedDeployment>();
  const changed = new Set<string>();
  /** Observations that are told a second time already, or wait for it (B2). */
  const confirmed = new WeakSet<ObservedDeployment>();
  let tell: ((report: StateReport) => void) | undefined;
  let number = journal.number("observation");
  let reserved = number;
  let flushing: Promise<void> | undefined;
  let stopped: AbortSignal | undefined;

  return {
    report(listener) {
      tell = listener;
      if (listener === undefined) return;
      for (const id of newest.keys()) changed.add(id);
      schedule();
    },
    get observation() {
      return number;
    },
    running() {
      const instances = [...newest.values()].flatMap((observed) => observed.instances);
      return instances.filter(({ phase }) => phase === "RUNNING").length;
    },
    async run(signal) {
      stopped = signal;
      for (let attempt = 0; !signal.aborted; attempt += 1) {
        try {
          for (const observed of await runtime.list()) note(observed);
          await runtime.watch(note, signal);
        } catch (error) {
          log.warn({ error: error instanceof Error ? error.message : String(error) }, "what runs cannot be observed");
        }
        if (!signal.aborted) await clock.sleep(fullJitter(watchAgain, attempt), signal);
      }
      await flushing;
    },
  };

  function note(observed: ObservedDeployment): void {
    newest.set(observed.deploymentId, observed);
    changed.add(observed.deploymentId);
    schedule();
  }

  function schedule(): void {
    if (tell === undefined || changed.size === 0) return;
    flushing ??= flush()
      .catch(async (error: unknown) => {
        // The journal cannot be written. What was to be told stays in `changed`.
        const text = error instanceof Error ? error.message : String(error);
        log.warn({ error: text }, "observations could not be numbered");
        await clock.sleep(numberAgainMs, stopped);
      })
      .finally(() => {
        flushing = undefined;
        if (stopped?.aborted !== true) schedule(); // what changed meanwhile
      });
  }

  async function flush(): Promise<void> {
    await clock.sleep(gatherMs, stopped);
    if (number + 1 >= reserved) {
      await journal.setNumber("observation", number + reservedNumbers); // B1
      reserved = number + reservedNumbers;
    }
    if (tell === undefined) return; // The session ended; the next one is told everything.
    const states: DeploymentState[] = [];
    const told: ObservedDeployment[] = [];
    let bytes = 0;
    for (const id of changed) {
      const observed = newest.get(id);
      changed.delete(id);
      if (observed === undefined) continue;
      const state = deploymentState(observed);
      const size = toBinary(DeploymentStateSchema, state).byteLength;
      if (states.length > 0 && bytes + size > maxReportBytes) {
        changed.add(id); // into the next report
        break;
      }
      if (observed.absent) newest.delete(id);
      else if (!confirmed.has(observed)) told.push(observed);
      states.push(state);
      bytes += size;
    }
    if (states.length === 0) return;
    number += 1;
    tell(create(StateReportSchema, { observation: number, deployments: states }));
    void confirm(told);
  }

  /** B2. Bounded: one per report, and reports are at least `gatherMs` apart. */
  async function confirm(told: readonly ObservedDeployment[]): Promise<void> {
    for (const observed of told) confirmed.add(observed);
    if (told.length === 0) return;
    await clock.sleep(confirmAfterMs, stopped);
    for (const observed of told) if (newest.get(observed.deploymentId) === observed) changed.add(observed.deploymentId);
    if (stopped?.aborted !== true) schedule();
  }
}

/** As the stream carries it: of a deployment with more instances than fit, those with a problem and then the first ones. */
export function deploymentState(all: ObservedDeployment): DeploymentState {
  const observed =
    all.instances.length <= maxInstances
      ? all
      : { ...all, instances: all.instances.toSorted((a, b) => Number(isAsWanted(a)) - Number(isAsWanted(b))) };
  let state = stateOf(observed, maxInstances);
  // Ports are what makes an instance large; halving ends at a few quickly.
  for (let most = maxInstances; most > 1 && toBinary(DeploymentStateSchema, state).byteLength > maxReportBytes;) {
    most = Math.floor(most / 2);
    state = stateOf(observed, most);
  }
  return state;
}

/** As far as the instance alone can tell. What is cut off must not be what somebody has to look at. */
function isAsWanted({ phase, health, exitCode, altered }: ObservedDeployment["instances"][number]): boolean {
  return phase === "EXITED" ? exitCode === 0 : phase === "RUNNING" && health !== "UNHEALTHY" && altered !== true;
}

function stateOf(observed: ObservedDeployment, most: number): DeploymentState {
  const { deploymentId, generation, absent } = observed;
  return create(DeploymentStateSchema, {
    deploymentId,
    generation,
    absent,
    instances: observed.instances.slice(0, most).map(({ ports, startedAt, reason, exitCode, ...rest }) => {
      const instance: NonNullable<MessageInitShape<typeof DeploymentStateSchema>["instances"]>[number] = {
        ...rest,
        reason: reason.slice(0, maxReasonCharacters),
        ports: ports.map((port) => ({ ...port })),
      };
      if (startedAt !== undefined) instance.startedAt = timestampFromDate(startedAt);
      if (exitCode !== undefined) instance.exitCode = exitCode;
      return instance;
    }),
  });
}
