/**
 * Processes of this machine, as /proc tells them.
 *
 * A process is known by its pid, its start time and the boot that it lives in;
 * a pid alone may be somebody else by now.
 */
import { readdirSync, readFileSync } from "node:fs";

export interface ProcessStat {
  pid: number;
  /** `R`, `S`, `T`, `Z`, … as in proc(5). */
  state: string;
  parent: number;
  group: number;
  session: number;
  /** Clock ticks after boot; text, because it is only compared. */
  startTime: string;
}

/** What a run is known by after the agent has forgotten it (P1). */
export interface ProcessIdentity {
  pid: number;
  startTime: string;
  bootId: string;
}

/** Undefined if there is no such process. */
export function readStat(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined; // it has ended: that is the answer
  }
  // The name in brackets may hold anything, brackets and spaces included.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return {
    pid,
    state: fields[0] ?? "",
    parent: Number(fields[1]),
    group: Number(fields[2]),
    session: Number(fields[3]),
    startTime: fields[19] ?? "",
  };
}

/** Undefined if it has ended or belongs to another user. */
export function readEnvironment(pid: number): Map<string, string> | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return undefined; // ended, or not ours to read: then it is not ours at all
  }
  const variables = new Map<string, string>();
  for (const entry of text.split("\0")) {
    const equals = entry.indexOf("=");
    if (equals > 0) variables.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
  return variables;
}

export function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

/** True while exactly this process lives (P1). */
export function isAlive(identity: ProcessIdentity, bootId: string): boolean {
  if (identity.bootId !== bootId) return false;
  const stat = readStat(identity.pid);
  return stat !== undefined && stat.startTime === identity.startTime && !isDead(stat);
}

/** A zombie counts as gone. */
export function isDead(stat: ProcessStat): boolean {
  return stat.state === "Z" || stat.state === "X";
}

/** All living processes of this machine. */
export function allProcesses(): ProcessStat[] {
  const processes: ProcessStat[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const stat = readStat(pid);
    if (stat !== undefined && !isDead(stat)) processes.push(stat);
  }
  return processes;
}

/** Sends a signal; false if nobody was there to get it. */
export function send(target: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(target, signal);
    return true;
  } catch {
    return false; // ended in between, or now owned by another user
  }
}
