/**
 * One instance and its life: started, watched, started again, paused, stopped.
 *
 *   launch.ts  one run of it      readiness.ts   whether it is there
 *   health.ts  its health         deployments.ts all instances of a deployment
 *
 * I1: at most one run of an instance lives; the next starts when nothing of the
 *     last is left.
 * I2: what is wished (`run`, `pause`, `stop`) is on disk before it is done, so
 *     that an agent that returns goes on with it.
 * I3: only `stop`, `suspend` and a job's deadline end a process; letting go
 *     leaves it as it is.
 *
 * The calls of one instance follow each other: its deployment makes them in turn.
 */
import { isAbsolute, join } from "node:path";
import { systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "@bowline/agent-core";
import { RestartPolicy } from "@bowline/contract/deployments";
import type { Workload } from "@bowline/contract/deployments";
import { writeDurably } from "./durable.ts";
import { watchHealth } from "./health.ts";
import { adopt, forgetRun, launch, LaunchFailed } from "./launch.ts";
import type { Exit, LiveRun } from "./launch.ts";
import type { LogFile } from "./logs.ts";
import { endRun, freezeRun, killRun, markers, sendToRun } from "./processes.ts";
import type { RunIdentity } from "./processes.ts";
import { claimPorts } from "./ports.ts";
import { asRefusal, Refusal } from "./refusal.ts";
import type { Times } from "./times.ts";
import { findProgram, isJob, milliseconds, needsExitCode, stopGraceMs, stopSignal } from "./workloads.ts";
import type { Definition } from "./workloads.ts";

/** What is kept of an instance beside its definition; state.json in its slot. */
export interface InstanceState {
  wish: "run" | "pause" | "stop";
  /** That it belongs to: the one that made it, or a later one that didn't change it. */
  generation: number;
  /** Starts after the first, in that generation. */
  restarts: number;
  /** Ends in a row that count for the wait before the next start; for a job its failed runs. */
  failures: number;
  /** True: it ended and is not started again. */
  done: boolean;
  /** How its last run ended. */
  exit?: Exit;
}

export type Phase =
  | { kind: "idle" }
  | { kind: "starting" }
  | { kind: "running"; live: LiveRun; health: InstanceHealth; reason: string; settled: boolean }
  | { kind: "paused"; live: LiveRun }
  | { kind: "stopping"; live: LiveRun }
  | { kind: "backing-off"; exit: Exit; untilMs: number; wake: AbortController }
  | { kind: "exited"; exit: Exit };

/** What an instance needs from its runtime. */
export interface InstanceSurroundings {
  runtimeId: string;
  bootId: string;
  times: Times;
  /** All variables of the process but its run's marker. */
  environment(definition: Definition, workload: Workload): Promise<Record<string, string>>;
  /** Called after every change of its phase. */
  changed(): void;
  note(level: "info" | "warn" | "error", message: string, facts: Record<string, unknown>): void;
}

export interface Instance {
  readonly folder: string;
  readonly definition: Definition;
  readonly workload: Workload;
  readonly log: LogFile;
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
  /** The same without a changed wish: the next agent starts it again. */
  suspend(): Promise<void>;
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

  function begin(adopted: LiveRun | undefined, frozen: boolean): void {
    const ends = new AbortController();
    const loop = live(ends.signal, adopted, frozen).catch((error: unknown) => {
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

  async function live(ends: AbortSignal, adopted: LiveRun | undefined, frozen: boolean): Promise<void> {
    let exit = await once(ends, adopted, frozen);
    while (exit !== undefined && (await again(exit, ends))) {
      await save({ restarts: state.restarts + 1 });
      exit = await once(ends, undefined, false);
    }
  }

  /** One run to its end; undefined if supervision ended first. */
  async function once(ends: AbortSignal, adopted: LiveRun | undefined, frozen: boolean): Promise<Exit | undefined> {
    if (adopted === undefined) {
      become({ kind: "starting" });
      const started = await startRun();
      if ("reason" in started) return started;
      current = started;
    } else current = adopted;
    const run = current;
    if (frozen) become({ kind: "paused", live: run });
    else attend(run);
    const exit = await endOf(run, ends);
    attention?.abort();
    if (exit === undefined) return undefined;
    await clear(run.identity);
    current = undefined;
    return exit;
  }

  async function startRun(): Promise<LiveRun | Exit> {
    try {
      const environment = await surroundings.environment(definition, workload);
      findProgram(workload, environment["PATH"] ?? "", workingDir);
      await claimPorts(workload.name, definition.ports);
      logStart = log.end();
      const command = [...workload.command, ...workload.args];
      const run = await launch(
        { folder, command, environment, workingDir, logPath: log.path, logStart, recordsExit: needsExitCode(workload) },
        bootId,
      );
      surroundings.note("info", "instance started", { ...facts, pid: run.record.pid });
      return run;
    } catch (error) {
      const failed =
        error instanceof LaunchFailed ? new Refusal("START_FAILED", error.message, true) : asRefusal(error);
      if (failed === undefined) throw error;
      const { reason, worthRetry } = failed;
      return { reason: failed.message, at: Date.now(), refused: { reason, worthRetry } };
    }
  }

  /** Health, settling and deadline of a running run. */
  function attend(run: LiveRun): void {
    const ends = (attention = new AbortController()).signal;
    const ranMs = Math.max(0, Date.now() - run.record.startedAt);
    become({ kind: "running", live: run, health: "UNKNOWN", reason: "", settled: false });
    const change = (part: { health?: InstanceHealth; reason?: string; settled?: boolean }): void => {
      if (!ends.aborted && phase.kind === "running") become({ ...phase, ...part });
    };
    void systemClock
      .sleep(times.settleMs - Math.min(ranMs, times.settleMs), ends)
      .then(() => change({ settled: true }));
    if (workload.healthCheck !== undefined) void watchIts(run, ends, (health, reason) => change({ health, reason }));
    const deadlineMs = milliseconds(workload.runToCompletion?.deadline);
    if (deadlineMs !== undefined) {
      void systemClock.sleep(deadlineMs - ranMs, ends).then(async () => {
        if (ends.aborted) return;
        run.overdueMs = deadlineMs;
        become({ kind: "stopping", live: run });
        await endRun(run.identity, stopSignal(workload), stopGraceMs(workload));
      });
    }
  }

  async function watchIts(
    run: LiveRun,
    ends: AbortSignal,
    changed: (health: InstanceHealth, reason: string) => void,
  ): Promise<void> {
    const check = workload.healthCheck;
    if (check === undefined) return;
    const variables = await surroundings.environment(definition, workload);
    const environment = { ...variables, [markers.run]: run.record.run };
    await watchHealth(check, { ports: definition.ports, environment, workingDir }, changed, ends);
  }

  /** Records an end and decides: false, it has ended for good; true, after a wait, it starts again. */
  async function again(exit: Exit, ends: AbortSignal): Promise<boolean> {
    const retries = workload.runToCompletion?.retries;
    const failed = exit.code !== 0;
    const stable = (exit.ranMs ?? 0) >= times.stableAfterMs;
    const failures = (stable && !isJob(workload) ? 0 : state.failures) + 1;
    const done =
      retries !== undefined
        ? !failed || failures > retries
        : workload.restartPolicy === RestartPolicy.NEVER ||
          (workload.restartPolicy === RestartPolicy.ON_FAILURE && !failed);
    await save({ exit, failures, done });
    if (exit.run !== undefined) await forgetRun(folder, exit.run);
    surroundings.note(failed ? "warn" : "info", "instance ended", { ...facts, code: exit.code, reason: exit.reason });
    if (done) {
      become({ kind: "exited", exit });
      return false;
    }
    const waitMs = Math.min(times.backoffMaxMs, times.backoffFirstMs * 2 ** Math.min(failures - 1, 30));
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

  async function end(): Promise<void> {
    await endLife();
    const run = current;
    if (run !== undefined) {
      become({ kind: "stopping", live: run });
      const left = await endRun(run.identity, stopSignal(workload), stopGraceMs(workload));
      if (left.length > 0) throw new Refusal("INTERNAL", `processes ${left.join(", ")} cannot be killed`, true);
      const exit = await run.ended;
      current = undefined;
      await save({ exit: { ...exit, reason: "stopped" } });
      await forgetRun(folder, run.record.run);
    }
    become(state.done && state.exit !== undefined ? { kind: "exited", exit: state.exit } : { kind: "idle" });
  }

  return {
    folder,
    definition,
    workload,
    log,
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
        else sendToRun(current.identity, "SIGCONT"); // it may have crashed while it resumed it
        return begin(current, frozen);
      }
      if (found !== undefined) {
        await clear(found.identity);
        if (state.exit?.run !== found.ended.run) await save({ exit: found.ended });
        const counted = state.exit?.run === found.ended.run && state.done;
        if (!counted && state.wish === "run") return beginAfter(found.ended);
        await forgetRun(folder, found.record.run);
      }
      if (state.wish === "run" && !state.done) begin(undefined, false);
    },
    async start() {
      await save({ wish: "run" });
      if (phase.kind === "paused") {
        sendToRun(phase.live.identity, "SIGCONT");
        return attend(phase.live);
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
      begin(undefined, false);
    },
    async pause() {
      await save({ wish: "pause" });
      if (phase.kind === "paused") return;
      await endLife();
      if (current === undefined) return become(phase.kind === "exited" ? phase : { kind: "idle" });
      if (!(await freezeRun(current.identity))) {
        throw new Refusal("INTERNAL", `workload ${workload.name}: not all of its processes stopped`, true);
      }
      begin(current, true);
    },
    async stop() {
      await save({ wish: "stop" });
      await end();
    },
    suspend: end,
    async letGo() {
      await endLife();
      current?.letGo();
    },
    async enter(generation) {
      if (state.generation !== generation) await save({ generation, restarts: 0 });
    },
  };

  /** Goes on after a run that ended while no agent was there. */
  function beginAfter(exit: Exit): void {
    const ends = new AbortController();
    const loop = again(exit, ends.signal).then(async (restart) => {
      if (!restart) return;
      await save({ restarts: state.restarts + 1 });
      await live(ends.signal, undefined, false);
    });
    life = {
      ends,
      loop: loop.catch((error: unknown) =>
        surroundings.note("error", "supervision failed", { ...facts, error: String(error) }),
      ),
    };
  }
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
