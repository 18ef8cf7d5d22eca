/**
 * Processes of this machine, as /proc tells them: who lives, who belongs to
 * whom, and how to end all of it.
 *
 *   launch.ts     starts a run and finds it again   instances.ts  decides when
 *
 * P1: a process is known by its pid, its start time and the boot that it lives
 *     in; a pid alone may be somebody else by now.
 * P2: a run is its leader, whoever shares the leader's group or session, and
 *     whoever carries the run's marker in its environment: a child that made a
 *     session of its own is still found.
 * P3: nothing is signalled that fails both; a zombie counts as gone.
 */
import {
  allProcesses,
  isDead,
  readEnvironment,
  readStat,
  send,
  type ProcessIdentity,
  type ProcessStat,
} from "@bowline/agent-core/runtimes";
import { systemClock } from "@bowline/kernel";

/** Environment variables that mark what a runtime started. */
export const markers = {
  /** Id of the data folder that the runtime works in. */
  runtime: "BOWLINE_RUNTIME",
  /** `<deployment>/<workload>/<index>/<generation>`. */
  instance: "BOWLINE_INSTANCE",
  /** Names one run, so that what a crash left half recorded is found again. */
  run: "BOWLINE_RUN",
  /** Set for a health check's command: it belongs to a run, but is not its leader. */
  probe: "BOWLINE_PROBE",
  /** Names one exec, see exec.ts; it carries its run's marker and that of a probe as well. */
  exec: "BOWLINE_EXEC",
} as const;

/** A living process that a runtime with this data folder started, or a child of one. */
export interface MarkedProcess extends ProcessStat {
  instance: string;
  run: string;
  probe: boolean;
}

/** Everything that carries the marker of this runtime (P2). */
export function markedProcesses(runtimeId: string): MarkedProcess[] {
  const marked: MarkedProcess[] = [];
  for (const stat of allProcesses()) {
    const variables = readEnvironment(stat.pid);
    if (variables?.get(markers.runtime) !== runtimeId) continue;
    marked.push({
      ...stat,
      instance: variables.get(markers.instance) ?? "",
      run: variables.get(markers.run) ?? "",
      probe: variables.has(markers.probe),
    });
  }
  return marked;
}

/** What names the processes of one run. */
export interface RunIdentity extends ProcessIdentity {
  /** Value of its marker. */
  run: string;
  /**
   * False after an agent restart that found the leader gone: then its group's
   * number may belong to somebody else, and only the marker counts (P3).
   */
  groupIsOurs: boolean;
}

/** A living process and the markers that it has. */
type Scanned = ProcessStat & { runtime: string | undefined; run: string | undefined; exec: string | undefined };

/**
 * All of this machine's processes. Callers of one turn of the event loop share
 * a scan, so that a hundred instances that end at once don't read /proc a
 * hundred times; the scan begins after all of them have asked.
 */
function scan(): Promise<Scanned[]> {
  scanning ??= new Promise((resolve) => {
    setImmediate(() => {
      scanning = undefined;
      resolve(
        allProcesses().map((stat) => {
          const variables = readEnvironment(stat.pid);
          const [runtime, run, exec] = [markers.runtime, markers.run, markers.exec].map((name) => variables?.get(name));
          return { ...stat, runtime, run, exec };
        }),
      );
    });
  });
  return scanning;
}

/** Of the machine, like what it holds: all runtimes of a process may share it. */
let scanning: Promise<Scanned[]> | undefined;

/** The living processes of a run (P2). */
export async function members(run: RunIdentity): Promise<ProcessStat[]> {
  return (await scan()).filter(
    (found) => found.run === run.run || (run.groupIsOurs && (found.group === run.pid || found.session === run.pid)),
  );
}

/** The living processes of an exec: by its marker and, while its leader is our child, by the leader's group and session. */
export async function execMembers(exec: string, leader: number | undefined): Promise<ProcessStat[]> {
  return (await scan()).filter(
    (found) => found.exec === exec || (leader !== undefined && (found.group === leader || found.session === leader)),
  );
}

/** The living processes of all execs of a runtime. */
export async function allExecMembers(runtimeId: string): Promise<ProcessStat[]> {
  return (await scan()).filter((found) => found.runtime === runtimeId && found.exec !== undefined);
}

/** To a run: its group at once, then members that left the group. */
export async function sendToRun(run: RunIdentity, signal: NodeJS.Signals): Promise<void> {
  if (run.groupIsOurs) send(-run.pid, signal);
  for (const stat of await members(run)) if (!run.groupIsOurs || stat.group !== run.pid) send(stat.pid, signal);
}

/** First and longest wait between two looks at what is to end. */
const lookFirstMs = 10;
const lookMaxMs = 200;

/** SIGKILL is not instant (a process in a disk wait), but one that takes longer needs a person. */
const killLimitMs = 10_000;

/**
 * Ends a run: `signal`, then, when the leader is gone or `graceMs` are over,
 * SIGKILL for all that is left of it, until nothing is.
 *
 * Returns the pids that did not end within 10 s of SIGKILL: empty, but for
 * processes that the kernel holds.
 */
export async function endRun(run: RunIdentity, signal: NodeJS.Signals, graceMs: number): Promise<number[]> {
  await sendToRun(run, signal);
  await sendToRun(run, "SIGCONT"); // a paused process would never see the signal
  const graceEnds = performance.now() + graceMs;
  let lookMs = lookFirstMs;
  while (performance.now() < graceEnds && isThere(run)) {
    await systemClock.sleep(Math.min(lookMs, Math.max(0, graceEnds - performance.now())));
    lookMs = Math.min(lookMs * 2, lookMaxMs);
  }
  return await killRun(run);
}

/** SIGKILL for all of a run until nothing is left. Returns what did not end within 10 s. */
export function killRun(run: RunIdentity): Promise<number[]> {
  return killAll(() => members(run), run.groupIsOurs ? run.pid : undefined);
}

/** SIGKILL for what `find` finds, and for a group, until nothing is left. Returns what did not end within 10 s. */
export async function killAll(find: () => Promise<ProcessStat[]>, group?: number): Promise<number[]> {
  const killEnds = performance.now() + killLimitMs;
  let lookMs = lookFirstMs;
  /** What was found once: one that is killed loses its markers a moment before it is gone, and lets go of its ports last. */
  let left: ProcessStat[] = [];
  for (;;) {
    const found = await find();
    const lost = left.filter((stat) => isThere(stat) && !found.some(({ pid }) => pid === stat.pid));
    left = [...found, ...lost];
    if (left.length === 0) return [];
    // All are frozen before any is killed: what forks faster than we look cannot get away.
    for (const stat of left) send(stat.pid, "SIGSTOP");
    if (group !== undefined) send(-group, "SIGKILL");
    for (const stat of left) send(stat.pid, "SIGKILL");
    if (performance.now() > killEnds) return left.map((stat) => stat.pid);
    await systemClock.sleep(lookMs);
    lookMs = Math.min(lookMs * 2, lookMaxMs);
  }
}

/** Looks at a run that is being frozen; each takes a few ms. */
const freezeLooks = 40;

/** SIGSTOP for all of a run. False if some of it still runs after about 2 s. */
export async function freezeRun(run: RunIdentity): Promise<boolean> {
  for (let look = 0; look < freezeLooks; look += 1) {
    const moving = (await members(run)).filter((stat) => stat.state !== "T" && stat.state !== "t");
    if (moving.length === 0) return true;
    for (const stat of moving) send(stat.pid, "SIGSTOP");
    await systemClock.sleep(lookFirstMs * Math.min(look + 1, 5));
  }
  return false;
}

/** Of this boot. */
function isThere({ pid, startTime }: Pick<ProcessIdentity, "pid" | "startTime">): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.startTime === startTime && !isDead(stat);
}
