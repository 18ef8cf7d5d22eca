/** What is looked at before anything is started: clear words instead of a stack from below. */
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Options } from "./config.ts";
import { StartFailure } from "./failure.ts";
import { holderOf, holderText, isFree } from "./ports.ts";

/** Fails if the data directory cannot be written, is in use, or a port is held by something else. */
export async function checkBeforeStart(options: Options): Promise<void> {
  await checkWritable(options);
  await checkUnused(options);
  await checkPort(options, options.port, "server", "--port");
  await checkPort(options, options.gatewayPort, "gateway", "--gateway-port");
}

async function checkWritable({ dataDir }: Options): Promise<void> {
  const probe = join(dataDir, `.probe-${process.pid}`);
  try {
    await makeFolder(dataDir);
    await writeFile(probe, "");
    await rm(probe);
  } catch (error) {
    throw new StartFailure("data", `${dataDir} cannot be written: ${(error as Error).message}`, [
      "Take another one: npm start -- --data-dir DIR",
    ]);
  }
}

/** One by one: Node's `recursive` never returns where a file system refuses folders with ENOENT (/proc). */
async function makeFolder(path: string): Promise<void> {
  const there = (folder: string): Promise<boolean> =>
    stat(folder)
      .then((found) => found.isDirectory())
      .catch(() => false);
  if (await there(path)) return;
  if (dirname(path) !== path && !(await there(dirname(path)))) await makeFolder(dirname(path));
  await mkdir(path, { mode: 0o700 });
}

async function checkUnused({ dataDir }: Options): Promise<void> {
  let running: { pid?: unknown; url?: unknown };
  try {
    running = JSON.parse(await readFile(join(dataDir, "server.json"), "utf8")) as typeof running;
  } catch {
    return; // No server was here, or it said goodbye.
  }
  if (typeof running.pid !== "number" || !(await isServerOf(running.pid, dataDir))) return;
  throw new StartFailure(
    "data",
    `${dataDir} is in use: a server runs there (pid ${running.pid}, ${String(running.url)})`,
    ["Stop it, or start a second one beside it: npm start -- --port 0 --data-dir DIR"],
  );
}

/** A pid alone proves nothing: it may belong to another program by now. */
async function isServerOf(pid: number, dataDir: string): Promise<boolean> {
  const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return command.includes("control-plane") && command.includes(dataDir);
}

async function checkPort(options: Options, port: number, what: string, flag: string): Promise<void> {
  if (port === 0 || (await isFree(port))) return;
  const holder = await holderOf(port);
  // A data plane that outlived its agent: the agent takes it over.
  if (holder?.command.includes(options.dataDir) === true) return;
  throw new StartFailure(what, `port ${port} is in use by ${holderText(holder)}`, [
    `Stop it, or take another port: npm start -- ${flag} PORT`,
    "Or free ports, beside what runs: npm start -- --port 0 --data-dir DIR",
  ]);
}
