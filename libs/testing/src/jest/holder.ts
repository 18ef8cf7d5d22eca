/**
 * Holds the PostgreSQL and the Docker Engine that all test files of one jest
 * run share. A process of its own, because it must end with the run however the run ends: its standard
 * input is a pipe from jest, and the end of that pipe is the end of it.
 *
 * A run that ends in order says so first. One that does not has left processes
 * behind, perhaps: they are ended here (survivors.ts).
 *
 * Nothing is started before the first file asks: on the unix socket whose path
 * is printed, each connection gets one line, a HolderAnswer; on the one beside
 * it (engineSocketOf), an EngineAnswer.
 */
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, statSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type DatabaseAddress,
  type EmbeddedPostgresLog,
  lockFolder,
  migrate,
  openDatabase,
  runEmbeddedPostgres,
} from "@bowline/db";
import { engineSocketOf, holderSocketVariable, inOrder, testSettings } from "../config.ts";
import { addressOf, createDatabase, dropDatabases, withClient } from "../databases.ts";
import { startEngineServer } from "../engine-server.ts";
import { removeFolder } from "../folders.ts";
import { endSurvivors } from "./survivors.ts";

export type HolderAnswer =
  | { ok: true; address: DatabaseAddress; template: string; prefix: string }
  | { ok: false; message: string };

export type EngineAnswer = { ok: true; host: string } | { ok: false; message: string };

const folderPrefix = "bowline-test-run-";

/** Between making a folder and locking it there is a moment in which it looks abandoned. */
const abandonedAfterMs = 60_000;

/** A run that takes longer than this with databases on a server of the user's own may lose them to the next run. */
const staleDatabaseMs = 6 * 3_600_000;

/** Several files with several servers each, and their pools. */
const maxConnections = 300;

const silent: EmbeddedPostgresLog = { info: () => {}, warn: () => {}, error: console.error };

const temporary = realpathSync(tmpdir());
await removeAbandoned();
const folder = mkdtempSync(join(temporary, folderPrefix));
const mark = lockFolder(folder); // Tells the next run that this folder is in use.
const runId = `${Date.now().toString(36)}_${process.pid}`;
const prefix = `bowline_test_${runId}`;
const template = `${prefix}_template`;

const stops: (() => Promise<unknown>)[] = [];
let prepared: Promise<HolderAnswer> | undefined;
let engine: Promise<EngineAnswer> | undefined;

const sockets = new Set<Socket>();
/** A server that gives each connection what `answer` resolves with. */
const answering = (answer: () => Promise<HolderAnswer | EngineAnswer>) =>
  createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {}); // The file that asked has ended.
    void answer().then((given) => socket.end(`${JSON.stringify(given)}\n`));
  });
const refused = (error: unknown) => ({ ok: false, message: String(error) }) as const;
const server = answering(() => (prepared ??= prepare().catch(refused)));
const engineServer = answering(() => (engine ??= startEngine().catch(refused)));
const socketPath = join(folder, "holder");
engineServer.listen(engineSocketOf(socketPath), () => server.listen(socketPath, () => console.log(socketPath)));

// Ctrl-C goes to jest, which ends us through the pipe when its files have ended.
process.on("SIGINT", () => {});
let said = "";
process.stdin.setEncoding("utf8").on("data", (text: string) => void (said = (said + text).slice(-inOrder.length)));
process.stdin.on("end", end).on("error", end);

async function prepare(): Promise<HolderAnswer> {
  const { databaseUrl } = testSettings();
  const address = databaseUrl ?? (await startEmbedded());
  if (databaseUrl !== undefined) {
    stops.push(() => dropDatabases(databaseUrl, (name) => name.startsWith(prefix)));
    await dropDatabases(databaseUrl, isStale);
  }
  await withClient(address, (client) => createDatabase(client, template));
  const { db, end: close } = openDatabase({
    address: addressOf(address, template),
    applicationName: "bowline-test-template",
    maxConnections: 2,
  });
  try {
    await migrate(db);
  } finally {
    await close(); // A template with a connection cannot be cloned.
  }
  return { ok: true, address, template, prefix };
}

async function startEmbedded(): Promise<DatabaseAddress> {
  const postgres = await runEmbeddedPostgres({
    dataDir: join(folder, "postgres"),
    log: silent,
    durable: false,
    maxConnections,
  });
  stops.push(postgres.stop);
  return postgres.connection;
}

async function startEngine(): Promise<EngineAnswer> {
  const data = join(folder, "engine");
  mkdirSync(data);
  const started = await startEngineServer(data);
  stops.push(() => started.stop());
  return { ok: true, host: started.host };
}

function end(): void {
  server.close();
  engineServer.close();
  for (const socket of sockets) socket.destroy();
  void (async () => {
    await Promise.all([prepared, engine]);
    if (said !== inOrder) await endSurvivors(holderSocketVariable, socketPath);
    for (const stop of stops.toReversed()) await stop();
    if (mark.held) mark.release();
    await removeFolder(folder);
    process.exit(0);
  })();
}

/** What runs left whose machine or holder was killed. */
async function removeAbandoned(): Promise<void> {
  for (const name of readdirSync(temporary)) {
    if (!name.startsWith(folderPrefix)) continue;
    const path = join(temporary, name);
    try {
      if (Date.now() - statSync(path).mtimeMs < abandonedAfterMs) continue;
      const lock = lockFolder(path);
      if (!lock.held) continue;
      lock.release();
      await removeFolder(path);
    } catch {
      continue; // Another user's, or another run is removing it.
    }
  }
}

/** `bowline_test_<time in base 36>_…` */
function isStale(name: string): boolean {
  const time = /^bowline_test_([0-9a-z]+)_/.exec(name)?.[1];
  return time !== undefined && Date.now() - Number.parseInt(time, 36) > staleDatabaseMs;
}
