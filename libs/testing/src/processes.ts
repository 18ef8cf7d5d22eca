/**
 * Real processes in tests: a server, an agent, the CLI. Each is the leader of a
 * process group of its own, keeps its output, and is gone at the test's end.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { atEnd } from "./endings.ts";

export type ProcessEnd = { code: number | null; signal: NodeJS.Signals | null };

export type ProcessOptions = {
  /** The program and its arguments. `node` is the Node that runs the tests. */
  command: readonly string[];
  cwd?: string;
  /** Added to the tests' own environment; undefined takes a variable away. */
  env?: Record<string, string | undefined>;
  /** Written to its standard input, which is then closed. Default: closed at once. */
  input?: string;
  /** Its standard input stays open for `write`. */
  stdin?: "open";
};

export type RunningProcess = {
  pid: number;
  /** To its standard input, where that is open. */
  write: (text: string) => void;
  /** All that came so far. */
  stdout: () => string;
  stderr: () => string;
  /** Both, as they came. */
  output: () => string;
  /**
   * Resolves with the first line of either output that matches, also one that
   * came before the call. Throws if the process ends or `withinMs` (30 s)
   * passes first; the message has the output.
   */
  untilLine: (pattern: RegExp | string, options?: { withinMs?: number }) => Promise<string>;
  /** Resolves with the match once all output so far matches; else as untilLine. */
  untilOutput: (pattern: RegExp, options?: { withinMs?: number }) => Promise<RegExpExecArray>;
  /** Signals the process alone. False if it has ended. */
  kill: (signal: NodeJS.Signals) => boolean;
  /** Signals its process group, as Ctrl-C in a terminal does. False if it has ended. */
  killGroup: (signal: NodeJS.Signals) => boolean;
  /** Resolves when it has ended and all its output has been read. */
  ended: Promise<ProcessEnd>;
  /** SIGTERM, then after 20 s SIGKILL to the group. Called at the end by itself. */
  end: () => Promise<ProcessEnd>;
};

/** A quarter of a test's time. */
const defaultWithinMs = 30_000;

/** Above the longest orderly shutdown: a server's that has a PostgreSQL of its own, which takes 12 s at most. */
const terminateMs = 20_000;

/** A grandchild may hold the output open after the process has ended; it is not waited for. */
const outputMs = 1_000;

export function startProcess(options: ProcessOptions): RunningProcess {
  const [program = "", ...args] = options.command;
  const child = spawn(program === "node" ? process.execPath : program, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  let output = "";
  const watchers = new Set<() => void>();
  const arrived = () => watchers.forEach((watch) => watch());
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    output += text;
    arrived();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    output += text;
    arrived();
  });
  child.stdin.on("error", () => {}); // It ended without reading; its end tells.
  if (options.stdin !== "open") child.stdin.end(options.input ?? "");

  let end: ProcessEnd | undefined;
  const ended = new Promise<ProcessEnd>((resolve) => {
    const finish = (code: number | null, signal: NodeJS.Signals | null) => {
      if (end !== undefined) return;
      end = { code, signal };
      child.stdout.destroy();
      child.stderr.destroy();
      arrived();
      resolve(end);
    };
    child.once("error", (error) => {
      output += error.message;
      finish(null, null);
    });
    child.once("close", finish);
    child.once("exit", (code, signal) => {
      // Behind a look at the pipes: where this process stood still meanwhile, they are still full.
      setTimeout(() => setImmediate(finish, code, signal), outputMs).unref();
    });
  });

  const running: RunningProcess = {
    pid: child.pid ?? -1,
    write: (text) => void child.stdin.write(text),
    stdout: () => stdout,
    stderr: () => stderr,
    output: () => output,
    untilLine: async (pattern, within) => {
      const matches = (line: string) => (typeof pattern === "string" ? line.includes(pattern) : pattern.test(line));
      return arrives(
        () => [stdout, stderr].flatMap(wholeLines).find(matches),
        `a line with ${pattern}`,
        within?.withinMs,
      );
    },
    untilOutput: (pattern, within) =>
      arrives(() => pattern.exec(output) ?? undefined, String(pattern), within?.withinMs),
    kill: (signal) => child.kill(signal),
    killGroup: (signal) => signalGroup(child.pid, signal),
    ended,
    end: async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGTERM");
        const timer = setTimeout(() => signalGroup(child.pid, "SIGKILL"), terminateMs);
        await ended;
        clearTimeout(timer);
      }
      signalGroup(child.pid, "SIGKILL"); // Whatever of its group outlived it.
      return ended;
    },
  };
  atEnd(async () => {
    await running.end();
  });
  return running;

  function arrives<T>(find: () => T | undefined, what: string, withinMs = defaultWithinMs): Promise<T> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) =>
        settle(() => reject(new Error(`${options.command.join(" ")}: ${why} before ${what}:\n${output}`)));
      const timer = setTimeout(() => fail(`${withinMs} ms passed`), withinMs);
      watchers.add(look);
      look();

      function look(): void {
        const found = find();
        if (found !== undefined) settle(() => resolve(found));
        else if (end !== undefined) fail(`it ended (${end.signal ?? end.code})`);
      }
      function settle(then: () => void): void {
        clearTimeout(timer);
        watchers.delete(look);
        then();
      }
    });
  }
}

/** Runs a program to its end. */
export async function runProcess(
  options: ProcessOptions,
): Promise<ProcessEnd & { stdout: string; stderr: string; output: string }> {
  const running = startProcess(options);
  const end = await running.ended;
  return { ...end, stdout: running.stdout(), stderr: running.stderr(), output: running.output() };
}

/** True while a process with this pid runs. One that has ended and waits for its parent (a zombie) does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false; // ESRCH: gone. EPERM does not happen to our own.
  }
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.startsWith("Z") === false;
  } catch {
    return process.platform !== "linux"; // Gone meanwhile, or no /proc to ask.
  }
}

/** True while SIGSTOP holds the process. */
export function isPaused(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.startsWith("T") === true;
  } catch {
    return false; // Gone.
  }
}

function signalGroup(pid: number | undefined, signal: NodeJS.Signals): boolean {
  if (pid === undefined) return false;
  try {
    process.kill(-pid, signal);
    return true;
  } catch {
    return false; // Nobody of the group is left.
  }
}

/** What ends without a line break is not a line yet. */
function wholeLines(text: string): string[] {
  return text.split("\n").slice(0, -1);
}
