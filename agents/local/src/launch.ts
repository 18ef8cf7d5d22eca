/**
 * One run of an instance: a process in a session of its own that outlives the
 * agent, started once and found again after a crash of the agent.
 *
 *   processes.ts  who lives, and ending it    instances.ts  when to run, and how often
 *
 * L1: the intent is on disk before the process starts, under a name that the
 *     process carries in its environment: a crash between start and record
 *     leaves a process that the next agent finds by it.
 * L2: what writes the output is a file that the process holds; no pipe ends at
 *     the agent.
 *
 * A process that is not our child tells nobody its exit code. Where the code
 * decides something (jobs, ON_FAILURE, NEVER) a small shell stays between and
 * writes it down; workloads that are started again whatever their code run
 * without it.
 */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import { crashPoint } from "@bowline/kernel";
import type { FailureReason } from "@bowline/agent-core";
import { isAlive, readDurable, readStat, writeDurably } from "@bowline/agent-core/runtimes";
import { markedProcesses, markers } from "./processes.ts";
import type { RunIdentity } from "./processes.ts";

/** How a run ended. */
export interface Exit {
  /** As a shell reports it: 128 + number for a signal. Undefined: nobody was there to learn it. */
  code?: number;
  /** For people. */
  reason: string;
  /** Milliseconds since 1970. */
  at: number;
  /** Marker of the run; unset where none started. */
  run?: string;
  /** How long it ran, where that is known. */
  ranMs?: number;
  /** Ended by its own deadline. */
  overdue?: boolean;
  /** Why it did not start at all. */
  refused?: { reason: FailureReason; worthRetry: boolean };
}

/** A run as it is recorded in its slot's folder. */
export interface RunRecord {
  /** Value of its marker. */
  run: string;
  /** `intended` until the process is known (L1). */
  state: "intended" | "started";
  pid: number;
  startTime: string;
  bootId: string;
  /** Milliseconds since 1970. */
  startedAt: number;
  /** Where in the log its output begins, see logs.ts. */
  logStart: number;
  /** True: a shell between writes its exit code down. */
  recordsExit: boolean;
}

/** A run that the agent watches. */
export interface LiveRun {
  record: RunRecord;
  identity: RunIdentity;
  /** Resolves when its leader has ended; never rejects. */
  ended: Promise<Exit>;
  /** Set when it is stopped at its deadline. */
  overdueMs?: number;
  /** Watches no longer; `ended` then never resolves. */
  letGo(): void;
}

export interface LaunchSpec {
  /** The slot's folder: run.json, exit files. */
  folder: string;
  command: readonly string[];
  environment: Readonly<Record<string, string>>;
  workingDir: string;
  logPath: string;
  logStart: number;
  recordsExit: boolean;
}

/** The process could not be started at all. */
export class LaunchFailed extends Error {
  override readonly name = "LaunchFailed";
}

/**
 * Runs `"$@"` after its first argument, and writes its exit code to the file
 * that this one names. It survives the signals that it shares with its group;
 * a handler, unlike an ignored signal, is not inherited by the program.
 */
const exitRecorder = `trap : HUP INT QUIT USR1 USR2 PIPE ALRM TERM
file=$1; shift
"$@"
code=$?
echo "$code" >"$file.new" && mv "$file.new" "$file"
exit "$code"`;

/** How often a run that is not our child is looked at. One read of /proc each. */
const lookMs = 200;

/** Starts a run. Throws `LaunchFailed` if there is no process afterwards. */
export async function launch(spec: LaunchSpec, bootId: string): Promise<LiveRun> {
  const run = randomBytes(12).toString("hex");
  const intent: RunRecord = {
    run,
    state: "intended",
    pid: 0,
    startTime: "",
    bootId,
    startedAt: Date.now(),
    logStart: spec.logStart,
    recordsExit: spec.recordsExit,
  };
  await writeDurably(join(spec.folder, "run.json"), intent); // L1
  crashPoint("local.before-spawn");

  const child = await start(spec, run);
  crashPoint("local.after-spawn");
  const stat = child.pid === undefined ? undefined : readStat(child.pid);
  if (stat === undefined) throw new LaunchFailed("the process was gone at once");
  const record: RunRecord = { ...intent, state: "started", pid: stat.pid, startTime: stat.startTime };
  const live = watchChild(child, record);
  try {
    await writeDurably(join(spec.folder, "run.json"), record);
  } catch {
    // It runs, so it must not count as not started. The intent is on disk: its marker is enough to find it.
  }
  return live;
}

function start(spec: LaunchSpec, run: string): Promise<ChildProcess> {
  const [program, ...args] = spec.recordsExit
    ? ["/bin/sh", "-c", exitRecorder, "bowline", exitFile(spec.folder, run), ...spec.command]
    : spec.command;
  const log = openSync(spec.logPath, "a", 0o600); // L2; appending, so that a truncated log starts at 0 again
  try {
    return new Promise((resolve, reject) => {
      const child = spawn(program ?? "", args, {
        cwd: spec.workingDir,
        env: { ...spec.environment, [markers.run]: run },
        detached: true, // a session and group of its own: it outlives us and can be ended as a whole
        stdio: ["ignore", log, log],
      });
      if (child.pid !== undefined) resolve(child);
      child.once("error", (error) => reject(new LaunchFailed(error.message)));
    });
  } finally {
    closeSync(log);
  }
}

function watchChild(child: ChildProcess, record: RunRecord): LiveRun {
  const ended = new Promise<Exit>((resolve) => {
    child.once("exit", (code, signal) => {
      const number = signal === null ? 0 : constants.signals[signal];
      resolve({
        code: code ?? 128 + number,
        reason: signal === null ? `ended with exit code ${code}` : `ended by ${signal}`,
        ...endedNow(record),
      });
    });
  });
  const letGo = (): void => {
    child.removeAllListeners("exit");
    child.unref(); // our own end does not wait for it
  };
  return { record, identity: identityOf(record, true), ended, letGo };
}

/**
 * What became of the run that `folder` records: it lives (then it is watched
 * again), or it has ended. Undefined if there was none, or its start was
 * intended and never happened.
 */
export async function adopt(
  folder: string,
  runtimeId: string,
  bootId: string,
): Promise<{ live: LiveRun } | { ended: Exit; identity: RunIdentity; record: RunRecord } | undefined> {
  const stored = (await readDurable(join(folder, "run.json"))) as RunRecord | undefined;
  if (stored === undefined) return undefined;
  let record = stored;
  if (record.state === "intended") {
    const leader = markedProcesses(runtimeId).find(
      (found) => found.run === record.run && found.pid === found.session && !found.probe,
    );
    if (leader !== undefined) {
      record = { ...record, state: "started", pid: leader.pid, startTime: leader.startTime };
      await writeDurably(join(folder, "run.json"), record);
    } else if ((await readExit(folder, record)) === undefined) {
      return undefined;
    }
  }
  const identity = identityOf(record, false);
  if (record.state === "started" && isAlive(identity, bootId)) {
    return { live: watchStranger(folder, { ...identity, groupIsOurs: true }, record, bootId) };
  }
  const ended = (await readExit(folder, record)) ?? unknownExit(record);
  return { ended, identity, record };
}

function watchStranger(folder: string, identity: RunIdentity, record: RunRecord, bootId: string): LiveRun {
  let timer: NodeJS.Timeout | undefined;
  const ended = new Promise<Exit>((resolve) => {
    timer = setInterval(() => {
      if (isAlive(identity, bootId)) return;
      clearInterval(timer);
      void readExit(folder, record).then((exit) => resolve(exit ?? unknownExit(record)));
    }, lookMs);
  });
  return { record, identity, ended, letGo: () => clearInterval(timer) };
}

/** Removes what a run left in its slot's folder, once its end is recorded elsewhere. */
export async function forgetRun(folder: string, run: string): Promise<void> {
  await rm(join(folder, "run.json"), { force: true });
  await rm(exitFile(folder, run), { force: true });
}

async function readExit(folder: string, record: RunRecord): Promise<Exit | undefined> {
  if (!record.recordsExit) return undefined;
  try {
    const code = Number((await readFile(exitFile(folder, record.run), "utf8")).trim());
    return { code, reason: `ended with exit code ${code}`, ...endedNow(record) };
  } catch {
    return undefined; // it was killed with its shell, or the machine went down
  }
}

function unknownExit(record: RunRecord): Exit {
  return { reason: "ended; its exit code is not known, because an earlier agent started it", ...endedNow(record) };
}

function endedNow(record: RunRecord): Pick<Exit, "at" | "run" | "ranMs"> {
  return { at: Date.now(), run: record.run, ranMs: Math.max(0, Date.now() - record.startedAt) };
}

function exitFile(folder: string, run: string): string {
  return join(folder, `exit.${run}`);
}

function identityOf(record: RunRecord, groupIsOurs: boolean): RunIdentity {
  return { run: record.run, pid: record.pid, startTime: record.startTime, bootId: record.bootId, groupIsOurs };
}
