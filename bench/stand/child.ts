/**
 * A program of the benchmarks as a process of its own, so that what is measured
 * shares no event loop with what measures. Calls go by IPC; the child ends with
 * its parent.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

export interface Child<Calls extends Record<string, (given: never) => Promise<unknown>>> {
  pid: number;
  /** What it wrote last. */
  said(): string;
  call<Name extends keyof Calls & string>(
    name: Name,
    given: Parameters<Calls[Name]>[0],
  ): Promise<Awaited<ReturnType<Calls[Name]>>>;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
  /** Asks it to end, and after a while makes it. */
  end(): Promise<void>;
}

type Asked = { number: number; name: string; given: unknown };
type Answered = { number: number; value?: unknown; error?: string };

/** Enough to close some thousand connections in order. */
const endWithinMs = 10_000;
/** What a child said last, for the message of its end. */
const keptCharacters = 4_000;

/** `program` is relative to bench/. */
export function startChild<Calls extends Record<string, (given: never) => Promise<unknown>>>(
  program: string,
  { nodeOptions = [], args = [] }: { nodeOptions?: readonly string[]; args?: readonly string[] } = {},
): Child<Calls> {
  const child = fork(fileURLToPath(new URL(`../${program}`, import.meta.url)), [...args], {
    serialization: "advanced",
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    detached: true, // Ctrl-C is for the parent, which ends its children in order
    execArgv: [...nodeOptions],
  });
  let said = "";
  const keep = (text: string): void => void (said = (said + text).slice(-keptCharacters));
  child.stdout?.setEncoding("utf8").on("data", keep);
  child.stderr?.setEncoding("utf8").on("data", keep);
  const open = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  let ending = false;
  let numbers = 0;
  child.on("message", ({ number, value, error }: Answered) => {
    const caller = open.get(number);
    open.delete(number);
    if (error === undefined) caller?.resolve(value as never);
    else caller?.reject(new Error(`${program}: ${error}`));
  });
  const over = once(child, "exit").then(([code, signal]) => {
    for (const { reject } of open.values())
      reject(new Error(`${program} ended${ending ? "" : " by itself"} (${String(signal ?? code)}):\n${said}`));
    open.clear();
  });
  return {
    pid: child.pid ?? -1,
    said: () => said,
    call: (name, given) =>
      new Promise((resolve, reject) => {
        numbers += 1;
        open.set(numbers, { resolve, reject });
        child.send({ number: numbers, name, given } satisfies Asked, (error) => {
          if (error !== null) reject(new Error(`${program} has ended:\n${said}`));
        });
      }),
    async kill() {
      ending = true;
      child.kill("SIGKILL");
      await over;
    },
    async end() {
      ending = true;
      if (child.connected) child.disconnect();
      const timer = setTimeout(() => child.kill("SIGKILL"), endWithinMs);
      await over;
      clearTimeout(timer);
    },
  };
}

/** The child's side: answers calls until its parent is gone; then `end`, and the process ends. */
export function answerCalls(calls: Record<string, (given: never) => Promise<unknown>>, end: () => Promise<void>): void {
  process.on("message", ({ number, name, given }: Asked) => {
    const answer = (answered: Omit<Answered, "number">): void => {
      if (process.connected) process.send?.({ number, ...answered });
    };
    const call = calls[name];
    if (call === undefined) return answer({ error: `there is no call ${name}` });
    call(given as never).then(
      (value) => answer({ value }),
      (error: unknown) => answer({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  process.on("disconnect", () => {
    void end().finally(() => process.exit(0));
  });
}
