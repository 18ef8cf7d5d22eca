/** The server, as a process of its own: started, waited for, watched. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "@bowline/kernel";
import { endText, readableLine, startChild } from "./child.ts";
import type { Child } from "./child.ts";
import { root } from "./config.ts";
import type { Options } from "./config.ts";
import { StartFailure } from "./failure.ts";
import { openLogFile } from "./log-file.ts";

const program = join(root, "services/control-plane/src/main.ts");

/** A cold start makes a database: seconds on a laptop, a minute on a slow and busy machine. */
const readyWithinMs = 120_000;
const lookEveryMs = 50;

export type Server = {
  child: Child;
  url: string;
  /** Reads the admin token, which the first start writes. */
  adminToken: string;
  adminTokenFile: string;
  /** What it said about its database, e.g. `PostgreSQL 18.4, embedded, new`. */
  database: { text: string; tookMs: number | undefined } | undefined;
  /** Everything but the database. */
  tookMs: number;
};

/** Starts the server and waits until it says that it is ready. On a failure nothing of it is left. */
export async function startServer(options: Options, signal: AbortSignal): Promise<Server> {
  const from = systemClock.monotonicMs();
  const listening = Promise.withResolvers<string>();
  let database: Server["database"];
  const log = openLogFile(join(options.dataDir, "server.log"));
  const child = startChild(
    program,
    [
      "start",
      "--host",
      "127.0.0.1",
      "--port",
      String(options.port),
      "--data-dir",
      options.dataDir,
      "--log-format",
      "json",
      "--lifeline-stdin",
    ],
    log,
    (line) => {
      const entry = parse(line);
      if (entry?.msg === "listening" && typeof entry.url === "string") listening.resolve(entry.url);
      database ??= databaseOf(entry);
    },
  );
  try {
    const url = await Promise.race([
      listening.promise,
      child.ended.then((end) => {
        throw failure(child, endText(end), log.path);
      }),
      giveUp(signal, () => failure(child, `is not ready after ${readyWithinMs / 1_000} s`, log.path)),
    ]);
    await ready(url, child, signal);
    const adminTokenFile = join(options.dataDir, "admin-token");
    const adminToken = (await readFile(adminTokenFile, "utf8")).trim();
    const tookMs = systemClock.monotonicMs() - from - (database?.tookMs ?? 0);
    return { child, url, adminToken, adminTokenFile, database, tookMs };
  } catch (error) {
    await child.stop(2_000);
    throw error;
  }
}

async function giveUp(signal: AbortSignal, late: () => Error): Promise<never> {
  await systemClock.sleep(readyWithinMs, signal);
  signal.throwIfAborted();
  throw late();
}

async function ready(url: string, child: Child, signal: AbortSignal): Promise<void> {
  const until = systemClock.monotonicMs() + readyWithinMs;
  while (!child.hasEnded() && systemClock.monotonicMs() < until) {
    signal.throwIfAborted();
    const answer = await fetch(`${url}/ready`, { signal: AbortSignal.any([signal, AbortSignal.timeout(5_000)]) }).catch(
      () => undefined,
    );
    await answer?.body?.cancel();
    if (answer?.ok === true) return;
    await systemClock.sleep(lookEveryMs, signal);
  }
  throw new StartFailure("server", `${url}/ready does not say that it is ready`, tail(child));
}

/** Why it did not start: its own one line where it said one, else its last lines. */
function failure(child: Child, how: string, log: string): StartFailure {
  const own = child.lastLines().findLast((line) => line.startsWith("bowline server: "));
  const lines = own === undefined ? tail(child) : [];
  return new StartFailure("server", own?.replace("bowline server: ", "") ?? how, [...lines, `Its log: ${log}`]);
}

/** The last lines of a child, for people. */
export function tail(child: Child): string[] {
  return child.lastLines().map(readableLine);
}

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined; // A line that only looks like one of the log.
  }
}

/** The server tells each stage of its start as `{"msg":"started","stage":…,"detail":…,"ms":…}`. */
function databaseOf(entry: Record<string, unknown> | undefined): Server["database"] {
  if (entry?.msg !== "started" || entry.stage !== "database") return undefined;
  const text = typeof entry.detail === "string" ? entry.detail : "PostgreSQL";
  return { text, tookMs: typeof entry.ms === "number" ? entry.ms : undefined };
}
