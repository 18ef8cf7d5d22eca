/**
 * Following what instances write, over losses: of the connection to the server,
 * and of the hosts' to theirs.
 *
 *   log-lines.ts  which lines were told already
 *
 * F1: what cannot be had at all is told at once; only what was followed is tried
 *     again, with pauses, for a while.
 * F2: each loss is told, and so is what may be missing for it.
 * F3: what was followed may go because something else takes its place: that is
 *     asked for, until there is nothing any more.
 */
import { create } from "@bufbuild/protobuf";
import { type LogEntry, LogEntrySchema } from "@bowline/contract/instances";
import { type Clock, fullJitter } from "@bowline/kernel";
import { apiError } from "./errors.ts";
import { createLogLines, type LogLines } from "./log-lines.ts";
import { plain } from "./text.ts";

/** A host that restarts is back by then, and so is a server. */
const giveUpAfterMs = 5 * 60_000;
const backoff = { baseMs: 500, capMs: 10_000, floorMs: 250 };
/** What lived this long was there again. */
const stableMs = 10_000;
/** The server says something every 15 s. */
const silenceMs = 60_000;
/** Of a host that is away for a moment. */
const passing = new Set(["AGENT_OFFLINE", "TUNNEL_LOST", "TUNNEL_TIMEOUT", "TUNNEL_UNREACHABLE", "TUNNEL_LIMIT"]);

export interface FollowPorts {
  /** `lines` undefined: as at first; `agent` undefined: as it was asked for. */
  open(
    more: { lines: number | undefined; agent: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<{ entries: LogEntry[] }>;
  print: (entry: LogEntry) => void;
  note: (line: string) => void;
  clock: Clock;
}

/** The server's words for: there is nothing of it (F3). */
const nothing = new Set(["NOT_FOUND", "INSTANCE_UNKNOWN"]);

/** What all calls of one command share. */
interface Followed extends FollowPorts {
  told: LogLines;
  /** By agent: why there is no more of it. */
  missing: Map<string, LogEntry>;
  /** The server has answered something. */
  began: boolean;
}

/** Until all has been told, or `signal` aborts. Returns why there is no more of agents that were given up. */
export async function followLogs(ports: FollowPorts, signal: AbortSignal): Promise<LogEntry[]> {
  const { clock } = ports;
  const followed: Followed = { ...ports, told: createLogLines(), missing: new Map(), began: false };
  let lostAt = clock.monotonicMs();
  let ended = false;
  for (let tries = 0; !signal.aborted; tries += 1) {
    const openedAt = clock.monotonicMs();
    try {
      await round(followed, tries > 0, signal);
      if (followed.missing.size > 0) return [...followed.missing.values()];
      lostAt = clock.monotonicMs();
      if (lostAt - openedAt >= stableMs) tries = 0;
      ended = true; // F3
    } catch (error) {
      if (signal.aborted) break;
      if (ended && nothing.has(apiError(error)?.reason ?? "")) return [];
      if (clock.monotonicMs() - openedAt >= stableMs) {
        lostAt = clock.monotonicMs();
        tries = 0;
      }
      if (!isWorthATry(followed, error) || clock.monotonicMs() - lostAt > giveUpAfterMs) throw error;
      if (tries === 0) ports.note(`The connection is lost; it is tried again.${unseen(followed)}`); // F2
    }
    followed.missing.clear();
    await clock.sleep(fullJitter(backoff, tries, Math.random), signal);
  }
  return [];
}

function isWorthATry({ began }: Followed, error: unknown): boolean {
  const { reason, code } = apiError(error) ?? { reason: "", code: "" };
  if (!began && reason !== "TUNNEL_LOST") return false; // F1
  return passing.has(reason) || code === "unavailable" || (reason === "" && code !== "");
}

/** One call for all, and those for agents that are lost meanwhile. Throws what the one for all ends with. */
async function round(followed: Followed, isAgain: boolean, signal: AbortSignal): Promise<void> {
  const ending = new AbortController();
  const over = AbortSignal.any([signal, ending.signal]);
  const returning: Promise<void>[] = [];
  try {
    await call(followed, { agent: undefined, isAgain }, over, (why) => returning.push(follow(followed, why, over)));
    await Promise.all(returning);
  } finally {
    ending.abort();
    await Promise.all(returning);
  }
}

/** An agent that was lost: until all of it has been told, or it is given up. Never throws. */
async function follow(followed: Followed, first: LogEntry, over: AbortSignal): Promise<void> {
  const { clock, note, missing } = followed;
  const agent = first.instance?.agent ?? "";
  let why: LogEntry | undefined = first;
  let lostAt = clock.monotonicMs();
  for (let tries = 0; why !== undefined; tries += 1) {
    missing.set(agent, why);
    const text = `No more of ${plain(agent)}: ${why.reason}: ${plain(why.message)}`;
    if (!passing.has(why.reason) || clock.monotonicMs() - lostAt > giveUpAfterMs) return note(text);
    if (tries === 0) note(`${text} It is tried again.${unseen(followed, agent)}`); // F2
    await clock.sleep(fullJitter(backoff, tries, Math.random), over);
    if (over.aborted) return;
    const openedAt = clock.monotonicMs();
    why = undefined;
    try {
      await call(followed, { agent, isAgain: true }, over, (entry) => (why = entry));
    } catch (error) {
      if (over.aborted) return;
      const { reason, message } = apiError(error) ?? { reason: "", message: String(error) };
      why = create(LogEntrySchema, { instance: { agent }, reason: reason || "TUNNEL_LOST", message });
    }
    if (clock.monotonicMs() - openedAt < stableMs) continue;
    lostAt = clock.monotonicMs();
    tries = -1;
  }
  missing.delete(agent);
}

/** One call, to its end. `lost` is told why there is no more of an agent. Throws what it ends with. */
async function call(
  followed: Followed,
  { agent, isAgain }: { agent: string | undefined; isAgain: boolean },
  over: AbortSignal,
  lost: (why: LogEntry) => void,
): Promise<void> {
  const ending = new AbortController(); // also of a server that says nothing any more
  const lines = isAgain ? followed.told.resume(agent) : undefined;
  let silence = setTimeout(() => ending.abort(), silenceMs);
  try {
    for await (const { entries } of followed.open({ agent, lines }, AbortSignal.any([over, ending.signal]))) {
      clearTimeout(silence);
      silence = setTimeout(() => ending.abort(), silenceMs);
      followed.began = true;
      for (const entry of entries) {
        if (entry.reason !== "") lost(entry);
        else tell(followed, entry);
      }
    }
  } finally {
    clearTimeout(silence);
    ending.abort();
  }
}

function tell({ told, note, print }: Followed, entry: LogEntry): void {
  const is = told.look(entry);
  if (is === "told") return;
  const { service = "", agent = "" } = entry.instance ?? {};
  if (is === "gap") note(`Lines of ${plain(service)} at ${plain(agent)} from before this one may be missing.`); // F2
  print(entry);
}

/** F2 */
function unseen({ told }: Followed, agent?: string): string {
  return told.resume(agent) === 0 ? " What is written meanwhile is not shown: the host keeps no times of lines." : "";
}
