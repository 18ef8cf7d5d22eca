/**
 * A program that lives no longer than this process.
 *
 * C1: its standard input is a pipe that nobody writes to: it ends when we end,
 *     however we end, and the child exits then (`--lifeline-stdin`).
 * C2: it is in a session of its own: Ctrl-C reaches us alone, and we stop what
 *     runs in the right order.
 * C3: its output is read to the end, into a bounded file; the last lines are
 *     kept for the message when something fails.
 */
import { spawn } from "node:child_process";
import { systemClock } from "@bowline/kernel";
import { childEnvironment, root } from "./config.ts";
import type { LogFile } from "./log-file.ts";

/** Lines that are shown when it fails. */
const keptLines = 15;
/** A longer line is cut: it is for people. */
const maxLineChars = 2_000;

export type ChildEnd = { code: number | null; signal: NodeJS.Signals | null };

export type Child = {
  pid: number;
  ended: Promise<ChildEnd>;
  /** True after it ended. */
  hasEnded(): boolean;
  /** Its newest lines, both outputs. */
  lastLines(): readonly string[];
  /** Asks it to end, waits `graceMs`, then kills it. */
  stop(graceMs: number): Promise<void>;
};

/** Starts `node file …args`. `onLine` sees each line of both outputs. */
export function startChild(file: string, args: readonly string[], log: LogFile, onLine: (line: string) => void): Child {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", file, ...args], {
    cwd: root,
    env: childEnvironment(),
    detached: true, // C2
    stdio: ["pipe", "pipe", "pipe"], // C1
  });
  child.stdin.on("error", () => {}); // It ended; its exit tells.

  const kept: string[] = [];
  const take = (line: string): void => {
    kept.push(line.slice(0, maxLineChars));
    if (kept.length > keptLines) kept.shift();
    onLine(line);
  };
  for (const output of [child.stdout, child.stderr]) {
    let rest = "";
    output.setEncoding("utf8").on("data", (text: string) => {
      log.append(text); // C3
      const lines = (rest + text).split("\n");
      rest = (lines.pop() ?? "").slice(-maxLineChars);
      lines.forEach(take);
    });
    output.on("end", () => rest !== "" && take(rest));
  }

  let end: ChildEnd | undefined;
  const ended = new Promise<ChildEnd>((resolve) => {
    const finish = (code: number | null, signal: NodeJS.Signals | null): void => resolve((end ??= { code, signal }));
    child.once("error", (error) => {
      take(`cannot start ${file}: ${error.message}`);
      finish(null, null);
    });
    child.once("exit", (code, signal) => {
      // What it started may hold its output open; its own last words are there by then.
      setTimeout(finish, 200, code, signal);
    });
    child.once("close", finish);
  });

  return {
    pid: child.pid ?? -1,
    ended,
    hasEnded: () => child.exitCode !== null || child.signalCode !== null || end !== undefined,
    lastLines: () => kept,
    async stop(graceMs) {
      if (end !== undefined) return;
      child.kill("SIGTERM");
      const enough = new AbortController();
      const late = systemClock.sleep(graceMs, enough.signal).then(() => {
        if (!enough.signal.aborted) child.kill("SIGKILL");
      });
      await ended;
      enough.abort();
      child.stdin.destroy();
      await late;
    },
  };
}

/** How it ended, in words. */
export function endText({ code, signal }: ChildEnd): string {
  if (signal !== null) return `ended by ${signal}`;
  return code === null ? "not started" : `ended with exit code ${code}`;
}

/** A log line as people read it: time, level and message of a JSON line, others as they are. */
export function readableLine(line: string): string {
  if (!line.startsWith("{")) return line;
  try {
    const entry = JSON.parse(line) as Record<string, unknown>;
    const { err } = entry;
    const detail = typeof err === "object" && err !== null && "message" in err ? `: ${String(err.message)}` : "";
    const words = [entry.level, entry.reason, entry.msg].filter(
      (part) => typeof part === "string" || typeof part === "number",
    );
    return words.join(" ") + detail;
  } catch {
    return line;
  }
}
