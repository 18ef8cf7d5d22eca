/**
 * How an agent is, for whoever looks from beside it (`<program> health`; the
 * health check of a container): a file in its data folder, since an agent
 * listens nowhere.
 *
 * H1: it is renewed all the time: a process that stands still, or that was
 *     killed, is not healthy however it was before.
 * H2: it is a help and never a condition: a disk that takes no file does not
 *     end the agent.
 */
import { readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@bowline/kernel";
import type { CommandEnd } from "./command-end.ts";
import type { Runtime } from "./runtime.ts";

/** How it is. */
interface Told {
  /** It holds a session with its server. */
  connected: boolean;
  /** Since when it holds one, or holds none: ISO 8601. */
  since: string;
  /** What its runtime has to complain about; empty: nothing. */
  problem: string;
}

export interface Health {
  /** A session serves until `over` aborts. */
  serving(over: AbortSignal): void;
  /** Tells until `signal` aborts, and takes the file away then. */
  run(signal: AbortSignal): Promise<void>;
}

const fileOf = (dataDir: string): string => join(dataDir, "health.json");

/** A small file that is not synced: nothing for a disk. */
const renewEveryMs = 10_000;
/** Three renewals that did not come, on a busy machine too (H1). */
const staleAfterMs = 35_000;

export function createHealth(parts: { dataDir: string; runtime: Pick<Runtime, "describe">; clock: Clock }): Health {
  const { runtime, clock } = parts;
  const file = fileOf(parts.dataDir);
  let told: Told = { connected: false, since: new Date(clock.now()).toISOString(), problem: "" };
  let writing: Promise<void> = Promise.resolve();

  async function write(): Promise<void> {
    try {
      const { problem } = await runtime.describe();
      told = { ...told, problem }; // only now: the session may have come or gone while the runtime answered
      await writeFile(`${file}.next`, `${JSON.stringify(told)}\n`, { mode: 0o600 });
      await rename(`${file}.next`, file);
    } catch {
      // H2: what is there gets old, and so says it.
    }
  }

  const tell = (): Promise<void> => (writing = writing.then(write));

  function turn(connected: boolean): void {
    told = { ...told, connected, since: new Date(clock.now()).toISOString() };
    void tell();
  }

  return {
    serving(over) {
      turn(true);
      over.addEventListener("abort", () => turn(false), { once: true });
    },
    async run(signal) {
      while (!signal.aborted) {
        await tell();
        await clock.sleep(renewEveryMs, signal);
      }
      await writing;
      await rm(file, { force: true }).catch(() => undefined); // H2
    },
  };
}

/** Exit codes: 0 it holds a session and its runtime works; 1 anything else. */
export async function healthCommand(dataDir: string, now: () => number = Date.now): Promise<CommandEnd> {
  const file = fileOf(dataDir);
  let told: Told;
  let ageMs: number;
  try {
    told = JSON.parse(await readFile(file, "utf8")) as Told;
    ageMs = now() - (await stat(file)).mtimeMs;
  } catch {
    return ill("NOT_RUNNING", `no agent that has enrolled runs on ${dataDir}`);
  }
  const { connected, since, problem } = told;
  const seconds = Math.round(ageMs / 1000);
  if (ageMs > staleAfterMs) return ill("NOT_RUNNING", `the agent on ${dataDir} has said nothing for ${seconds} s`);
  if (problem !== "") return ill("RUNTIME_PROBLEM", problem, told);
  if (!connected) return ill("NOT_CONNECTED", `no session with the server since ${since}`, told);
  return { exitCode: 0, text: `connected since ${since}`, json: { ok: true, ...told } };
}

function ill(reason: string, message: string, told?: Told): CommandEnd {
  return { exitCode: 1, text: `${reason}: ${message}`, json: { ok: false, reason, message, ...told } };
}
