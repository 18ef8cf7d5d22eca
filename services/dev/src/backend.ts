/** The example's upstream: a process of its own, on a port that stays the same. */
import { join } from "node:path";
import { systemClock, fullJitter } from "@bowline/kernel";
import { endText, startChild } from "./child.ts";
import type { Child } from "./child.ts";
import { root } from "./config.ts";
import { StartFailure } from "./failure.ts";
import { openLogFile } from "./log-file.ts";
import { isFree } from "./ports.ts";
import { recall, remember } from "./remembered.ts";
import type { Screen } from "./screen.ts";
import { tail } from "./server.ts";

const program = join(root, "examples/hello/backend.mjs");
/** The port in examples/hello/product.yaml. */
const manifestPort = 9101;
/** A small Node program; more only on a very busy machine. */
const listensWithinMs = 20_000;
const restart = { baseMs: 500, capMs: 15_000, floorMs: 250 };

export type RunningBackend = { url: string; stop(graceMs: number): Promise<void> };

/**
 * Starts it on the port of the last run, else on the manifest's (unless free
 * ports were asked for), else on any. Started again when it dies.
 */
export async function startBackend(
  dataDir: string,
  anyPort: boolean,
  screen: Screen,
  signal: AbortSignal,
): Promise<RunningBackend> {
  const port = await choosePort(dataDir, anyPort);
  const log = openLogFile(join(dataDir, "backend.log"));
  const stopping = new AbortController();
  let listening = Promise.withResolvers<string>();
  const launch = (on: string): Child =>
    startChild(program, ["--port", on, "--lifeline-stdin"], log, (line) => {
      const url = /listening on (http:\S+)/.exec(line)?.[1];
      if (url !== undefined) listening.resolve(url);
    });

  let child = launch(String(port));
  const url = await Promise.race([
    listening.promise,
    child.ended.then((end) => failure(endText(end))),
    systemClock.sleep(listensWithinMs, signal).then(() => failure("does not listen")),
  ]).catch(async (error: unknown) => {
    await child.stop(1_000);
    signal.throwIfAborted();
    throw error;
  });
  const taken = new URL(url).port;
  await remember(dataDir, { backendPort: Number(taken) });
  const kept = keep();
  return {
    url,
    async stop(graceMs) {
      stopping.abort();
      await child.stop(graceMs);
      await kept;
    },
  };

  function failure(how: string): never {
    throw new StartFailure("backend", `the example's backend ${how}`, tail(child));
  }

  async function keep(): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      const end = await child.ended;
      if (stopping.signal.aborted) return;
      const waitMs = fullJitter(restart, attempt);
      screen.warn("backend", `${endText(end)}; started again in ${(waitMs / 1_000).toFixed(1)} s`);
      await systemClock.sleep(waitMs, stopping.signal);
      if (stopping.signal.aborted) return;
      listening = Promise.withResolvers();
      child = launch(taken);
    }
  }
}

async function choosePort(dataDir: string, anyPort: boolean): Promise<number> {
  const { backendPort } = await recall(dataDir);
  for (const port of [backendPort, anyPort ? undefined : manifestPort]) {
    if (port !== undefined && (await isFree(port))) return port;
  }
  return 0;
}
