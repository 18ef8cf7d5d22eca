/**
 * One instance and its life: started, watched, started again, paused, stopped.
 *
 *   starting.ts, launch.ts  one run of it                         readiness.ts   whether it is there
 *   attention.ts  health, deadline while it runs     restarts.ts    whether it starts again
 *   deployments.ts  all instances of a deployment
 *
 * I1: at most one run of an instance lives; the next starts when nothing of the
 *     last is left.
 * I2: what is wished (`run`, `pause`, `stop`) is on disk before it is done, so
 *     that an agent that returns goes on with it.
 * I3: only `stop`, `suspend` and a job's deadline end a process; letting go
 *     leaves it as it is.
 * The calls of one instance follow each other: its deployment makes them in turn.
 *
 * Long because every step of the life reads and writes the one state (I2).
 */
import { isAbsolute, join } from "node:path";
import { crashPoint, systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "@bowline/agent-core";
import type { Workload } from "@bowline/contract/deployments";
import { attend } from "./attention.ts";
import { Refusal, isAlive, isJob, stopGraceMs, stopSignal, writeDurably } from "@bowline/agent-core/runtimes";
import { adopt, forgetRun } from "./launch.ts";
import type { Exit, LiveRun } from "./launch.ts";
import type { LogFile } from "./logs.ts";
import type { InstanceState, Phase } from "./phases.ts";
import { endRun, freezeRun, killRun, sendToRun } from "./processes.ts";
import type { RunIdentity } from "./processes.ts";
import { decide } from "./restarts.ts";
import { startRun } from "./starting.ts";
import type { InstanceSurroundings } from "./starting.ts";
import type { Definition } from "./workloads.ts";

export interface Instance {
  readonly folder: string;
  readonly definition: Definition;
  readonly workload: Workload;
  readonly log: LogFile;
  /** Where its process begins. */
  readonly workingDir: string;
  readonly state: Readonly<InstanceState>;
  phase(): Phase;
  /** Position in the log at which the last run's output begins. */
  logStart(): number;
  /** Finds what an earlier agent left, and goes on with what was wished (I2). */
  resume(): Promise<void>;
  /** Runs it if it doesn't run; what has ended for good stays so, if it ended well or is a job. */
  start(): Promise<void>;
  /** Freezes it where it runs; else it stays as it is and does not start again. */
  pause(): Promise<void>;
  /** Ends it and everything that it started. Throws a refusal if the kernel holds something of it. */
  stop(): Promise<void>;
  /** The same without a changed wish, and within `graceLimitMs`: the next agent starts it again. */
  suspend(graceLimitMs: number): Promise<void>;
  /** Watches no longer (I3). */
  letGo(): Promise<void>;
  /** Belongs to a new generation that doesn't change it. */
  enter(generation: number): Promise<void>;
}

export function createInstance(
  folder: string,
  definition: Definition,
  workload: Workload,
  state: InstanceState,
  log: LogFile,
  surroundings: InstanceSurroundings,
): Instance {
  const { times, bootId } = surroundings;
  const workingDir = isAbsolute(workload.workingDir)
    ? workload.workingDir
    : join(folder, "folder", workload.workingDir);
  const facts = { deployment: definition.deploymentId, workload: workload.name, index: definition.index };
  let phase: Phase = state.done && state.exit !== undefined ? { kind: "exited", exit: state.exit } : { kind: "idle" };
  let life: { ends: AbortController; loop: Promise<void> } | undefined;
  /** The run that lives now, or whose remains are not cleared yet (I1). */
  let current: LiveRun | undefined;
  let attention: AbortController | undefined;
  let logStart = log.end();

  const become = (next: Phase): void => {
    phase = next;
    surroundings.changed();
  };
  const save = async (change: Partial<InstanceState>): Promise<void> => {
    Object.assign(state, change);
    await writeDurably(join(folder, "state.json"), state);
  };
  /** What happened, unlike what is wished (I2), may be lost with a full disk: supervision goes on. */
  const saveIfPossible = async (change: Partial<InstanceState>): Promise<void> => {
    await save(change).catch((error: unknown) =>
      surroundings.note("warn", "an instance's state is not saved", { ...facts, error: String(error) }),
    );
  };

  /** Supervises from here on: a run that lives, or what follows after `exit`, or a new run. */
  function begin(from: { adopted?: LiveRun; frozen?: boolean; exit?: Exit }): void {
    const ends = new AbortController();
    const loop = live(ends.signal, from).catch((error: unknown) => {
      surroundings.note("error", "an instance is not supervised any more", { ...facts, error: String(error) });
      become({ kind: "exited", exit: { reason: `the agent failed: ${String(error)}`, at: Date.now() } });
    });
    life = { ends, loop };
  }

  /** Ends supervision, not the process: `current` is what is left to decide about. */
  async function endLife(): Promise<void> {
    life?.ends.abort();
    await life?.loop;
    life = undefined;
  }

  async function live(
    ends: AbortSignal,
    { adopted, frozen = false, exit: before }: { adopted?: LiveRun; frozen?: boolean; exit?: Exit },
  ): Promise<void> {
    let exit = before ?? (await once(ends, adopted, frozen));
    while (exit !== undefined && (await again(exit, ends))) {
      await saveIfPossible({ restarts: state.restarts + 1 });
      exit = await once(ends, undefined, false);
    }
  }

  /** One run to its end; undefined if supervision ended first. */
  async function once(ends: AbortSignal, adopted: LiveRun | undefined, frozen: boolean): Promise<Exit | undefined> {
    if (adopted === undefined) {
      become({ kind: "starting" });
      logStart = log.end();
      const started = await startRun(
        { folder, definition, workload, workingDir, logPath: log.path, logStart },
        surroundings,
      );
      if ("reason" in started) return started;
      surroundings.note("info", "instance started", { ...facts, pid: started.record.pid });
      current = started;
    } else current = adopted;
    const run = current;
    if (frozen) become({ kind: "paused", live: run });
    else attendTo(run);
    const exit = await endOf(run, ends);
    attention?.abort();
    if (exit === undefined) return undefined;
    await clear(run.identity);
    current = undefined;
    return exit;
  }

  function attendTo(run: LiveRun): void {
    attention = new AbortController();
    become({ kind: "running", live: run, health: "UNKNOWN", reason: "", settled: false });
    const environment = () => surroundings.environment(definition, workload);
    const change = (part: { health?: InstanceHealth; reason?: string; settled?: boolean }): void => {
      if (phase.kind === "running") become({ ...phase, ...part });
    };
    attend(
      { run, workload, ports: definition.ports, workingDir, environment },
      times,
      {
        settled: () => change({ settled: true }),
        health: (health, reason) => change({ health, reason }),
        async overdue(deadlineMs) {
          run.overdueMs = deadlineMs;
          become({ kind: "stopping", live: run });
          await endRun(run.identity, stopSignal(workload), stopGraceMs(workload));
        },
        failed: (error) => surroundings.note("error", "an instance is not watched", { ...facts, error: String(error) }),
      },
      attention.signal,
    );
  }

  /** Records an end and decides: false, it has ended for good; true, after a wait, it starts again. */
  async function again(exit: Exit, ends: AbortSignal): Promise<boolean> {
    const { done, failures, waitMs } = decide(workload, exit, state.failures, times);
    await saveIfPossible({ exit, failures, done });
    if (exit.run !== undefined) await forgetRun(folder, exit.run);
    surroundings.note(exit.code === 0 ? "info" : "warn", "instance ended", {
      ...facts,
      code: exit.code,
      reason: exit.reason,
    });
    if (done) {
      become({ kind: "exited", exit });
      return false;
    }
    const wake = new AbortController();
    become({ kind: "backing-off", exit, untilMs: Date.now() + waitMs, wake });
    await systemClock.sleep(waitMs, AbortSignal.any([ends, wake.signal]));
    return !ends.aborted;
  }

  /** SIGKILL for what a run left behind (I1). */
  async function clear(identity: RunIdentity): Promise<void> {
    const left = await killRun(identity);
    if (left.length > 0) throw new Refusal("INTERNAL", `processes ${left.join(", ")} cannot be killed`, true);
  }

  async function end(graceLimitMs = Infinity): Promise<void> {
    await endLife();
    const run = current;
    if (run !== undefined) {
      const endedByItself = !isAlive(run.identity, bootId);
      become({ kind: "stopping", live: run });
      crashPoint("local.before-stop");
      const graceMs = Math.min(stopGraceMs(workload), graceLimitMs);
      const left = await endRun(run.identity, stopSignal(workload), graceMs);
      if (left.length > 0) throw new Refusal("INTERNAL", `processes ${left.join(", ")} cannot be killed`, true);
      const exit = await run.ended;
      current = undefined;
      // A job that ended just before is not to run again.
      const done = isJob(workload) && endedByItself && decide(workload, exit, state.failures, times).done;
      await saveIfPossible({ exit: done ? exit : { ...exit, reason: "stopped" }, done });
      await forgetRun(folder, run.record.run);
    }
    become(state.done && state.exit !== undefined ? { kind: "exited", exit: state.exit } : { kind: "idle" });
  }

  return {
    folder,
    definition,
    workload,
    log,
    workingDir,
    state,
    phase: () => phase,
    logStart: () => logStart,
    async resume() {
      const found = await adopt(folder, surroundings.runtimeId, bootId);
      if (found !== undefined && "live" in found) {
        current = found.live;
        logStart = found.live.record.logStart;
        if (state.wish === "stop") return await end(); // the last agent crashed while it stopped it
        const frozen = state.wish === "pause";
        if (frozen) await freezeRun(current.identity);
        else await sendToRun(current.identity, "SIGCONT"); // it may have crashed while it resumed it
        return begin({ adopted: current, frozen });
      }
      if (found !== undefined) {
        await clear(found.identity);
        if (state.exit?.run !== found.ended.run) await save({ exit: found.ended });
        const counted = state.exit?.run === found.ended.run && state.done;
        if (!counted && state.wish === "run") return begin({ exit: found.ended });
        await forgetRun(folder, found.record.run);
      }
      if (state.wish === "run" && !state.done) begin({});
    },
    async start() {
      await save({ wish: "run" });
      if (phase.kind === "paused") {
        await sendToRun(phase.live.identity, "SIGCONT");
        return attendTo(phase.live);
      }
      if (phase.kind === "backing-off") {
        const { wake } = phase;
        become({ kind: "starting" });
        return wake.abort();
      }
      if (phase.kind !== "idle" && phase.kind !== "exited") return;
      if (state.done && (isJob(workload) || state.exit?.code === 0)) return;
      await endLife();
      await save({ done: false, failures: 0 });
      begin({});
    },
    async pause() {
      await save({ wish: "pause" });
      if (phase.kind === "paused") return;
      await endLife();
      if (current === undefined) return become(phase.kind === "exited" ? phase : { kind: "idle" });
      if (!(await freezeRun(current.identity))) {
        throw new Refusal("INTERNAL", `workload ${workload.name}: not all of its processes stopped`, true);
      }
      begin({ adopted: current, frozen: true });
    },
    async stop() {
      await save({ wish: "stop" });
      await end();
    },
    suspend: (graceLimitMs) => end(graceLimitMs),
    async letGo() {
      await endLife();
      current?.letGo();
    },
    async enter(generation) {
      if (state.generation !== generation) await save({ generation, restarts: 0 });
    },
  };
}

/** How a run ends; undefined if `signal` aborts first. */
function endOf(run: LiveRun, signal: AbortSignal): Promise<Exit | undefined> {
  return new Promise((resolve) => {
    const stop = (): void => resolve(undefined);
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    void run.ended.then((exit) => {
      signal.removeEventListener("abort", stop);
      const overdue =
        run.overdueMs === undefined ? {} : { reason: `stopped at its deadline of ${run.overdueMs} ms`, overdue: true };
      // A job that is stopped at its deadline has failed, whatever it says with its exit code.
      resolve({ ...exit, ...overdue, ...(run.overdueMs !== undefined && exit.code === 0 ? { code: 124 } : {}) });
    });
  });
}
