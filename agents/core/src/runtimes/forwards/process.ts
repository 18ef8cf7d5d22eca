/**
 * The forwarder as a process on the agent's host: started, found again, told, ended.
 *
 *   document.ts  the files between the two    forwards.ts  what it is told
 *   build.ts     which version it is
 *
 * P1: it is a session of its own and outlives the agent. Its status names it by
 *     pid, start time and boot; a second one for the same folder ends at once.
 * P2: nothing is signalled before its status says that it lives: only then does
 *     it listen to SIGHUP.
 * P3: what is in force is on disk before anybody is told.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crashPoint, systemClock } from "@bowline/kernel";
import { makeFolder, readDurable, removeFolder, writeDurably } from "../durable.ts";
import { isAlive, readBootId, readStat, send } from "../processes.ts";
import { Refusal } from "../refusal.ts";
import { forwarderBuild } from "./build.ts";
import { forwardFiles, type ForwardDocument, type ForwardStatus } from "./document.ts";
import type { Forwarder } from "./forwarder.ts";

const program = fileURLToPath(new URL("../../../../forwarder/src/main.ts", import.meta.url));

/** A Node start on a machine under load takes seconds; one that takes longer hangs. */
const answerLimitMs = 20_000;
/** A process that is not there after this is started again. */
const startLimitMs = 5_000;
const lookMs = 15;
/** From SIGTERM to SIGKILL: it closes its ports and waits for nothing. */
const endGraceMs = 3_000;
const endLimitMs = 10_000;

export function forwarderProcess(folder: string): Forwarder {
  const bootId = readBootId();
  const build = forwarderBuild();
  const file = (name: keyof typeof forwardFiles): string => join(folder, forwardFiles[name]);
  let revision: number | undefined;
  let starting: { pid: number | undefined; at: number; ended: boolean } | undefined;

  function status(): ForwardStatus | undefined {
    try {
      return JSON.parse(readFileSync(file("status"), "utf8")) as ForwardStatus;
    } catch {
      return undefined; // it has not said anything yet
    }
  }

  function living(): ForwardStatus | undefined {
    const found = status();
    return found !== undefined && isAlive(found, bootId) ? found : undefined;
  }

  function start(): void {
    const log = openSync(file("log"), "w", 0o600); // of the last run: what it writes are its own failures
    try {
      const child = spawn(process.execPath, [program, folder, build], {
        cwd: "/",
        env: {}, // a program of ours, which needs no setting
        detached: true, // P1
        stdio: ["ignore", log, log],
      });
      const mine = { pid: child.pid, at: performance.now(), ended: child.pid === undefined };
      starting = mine;
      child.once("error", () => (mine.ended = true));
      child.once("exit", () => (mine.ended = true));
      child.unref();
    } finally {
      closeSync(log);
    }
  }

  const stored = async (): Promise<ForwardDocument | undefined> =>
    (await readDurable(file("config"))) as ForwardDocument | undefined;

  return {
    alive: () => living() !== undefined,
    status,
    stored,
    async adopt() {}, // its status names it
    outdated: () => living() !== undefined && living()?.build !== build,
    async renew() {
      await this.end(); // the next document starts it
    },
    async tell(document) {
      await makeFolder(folder);
      revision ??= (await stored())?.revision ?? 0;
      revision += 1;
      const mine = revision;
      await writeDurably(file("config"), { ...document, revision: mine }); // P3
      crashPoint("forwarder.before-signal");
      const before = living();
      if (before !== undefined) send(before.pid, "SIGHUP"); // P2
      let told = before?.pid;
      const limit = performance.now() + answerLimitMs;
      for (;;) {
        const now = living();
        if (now !== undefined && (now.revision === mine || now.refused?.revision === mine)) return now;
        if (now === undefined) {
          const waits = starting !== undefined && !starting.ended && performance.now() - starting.at < startLimitMs;
          if (!waits) start();
        } else if (now.pid !== told) send((told = now.pid), "SIGHUP"); // it may have read before we wrote
        if (performance.now() > limit)
          throw new Refusal("INTERNAL", `the forwarder does not answer${said(file("log"))}`, true);
        await systemClock.sleep(lookMs);
      }
    },
    async end() {
      const limit = performance.now() + endLimitMs;
      const graceEnds = performance.now() + endGraceMs;
      for (let signal: NodeJS.Signals | undefined = "SIGTERM"; ; await systemClock.sleep(lookMs)) {
        const now = living();
        // One that has only just been started has no status yet, and is our child.
        const pid = now?.pid ?? (starting?.ended === false && isStarting(starting.pid) ? starting.pid : undefined);
        if (pid === undefined) break;
        if (performance.now() > limit) throw new Refusal("INTERNAL", `process ${pid} cannot be killed`, true);
        if (now === undefined || performance.now() > graceEnds) send(pid, "SIGKILL");
        else if (signal !== undefined) send(pid, signal);
        signal = undefined;
      }
      starting = undefined;
      await rm(file("status"), { force: true });
    },
    async erase() {
      await this.end();
      await removeFolder(folder, forwardFiles.config); // one that is unknown to us ends with its folder
      revision = undefined;
    },
    letGo() {},
  };
}

function isStarting(pid: number | undefined): boolean {
  const stat = pid === undefined ? undefined : readStat(pid);
  return stat !== undefined && stat.state !== "Z" && stat.parent === process.pid;
}

function said(log: string): string {
  try {
    const text = readFileSync(log, "utf8").trim().slice(-1_000);
    return text === "" ? "" : `; it wrote:\n${text}`;
  } catch {
    return ""; // it never started
  }
}
