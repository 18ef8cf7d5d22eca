/**
 * The data plane process.
 *
 *   config.ts  its settings       document.ts  what it is given
 *   proxy/     attached.ts the routes, listener.ts the tenants' ports, admin.ts the adapter's
 *
 * It starts with the last good generation of everything in its volume, each
 * read alone, then listens. SIGTERM or SIGINT: takes nothing new, finishes what
 * is in flight within the grace, ends with 0. A listener that cannot bind ends
 * it with 1 and one line.
 */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile } from "node:fs/promises";
import type { Server } from "node:http";
import { join } from "node:path";
import { version } from "./version.ts";
import { readConfig, type Config } from "./config.ts";
import { readDocument, routesFolder, tokenFile, type AttachedDocument } from "./document.ts";
import { createAdmin } from "./proxy/admin.ts";
import { Attached } from "./proxy/attached.ts";
import { Listener } from "./proxy/listener.ts";

try {
  await run(readConfig(process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`bowline data plane: ${(error as Error).message}\n`);
  process.exit(1);
}

async function run(config: Config): Promise<void> {
  const startedAt = new Date().toISOString();
  const stopping = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stopping.abort());

  const attached = new Attached();
  attached.putAll(await lastGood(config.folder), ({ deploymentId, generation }, error) => {
    log("a last good generation is refused", { deploymentId, generation, problem: (error as Error).message });
  });
  const listeners = config.listeners.map((listener) => new Listener(listener, attached));
  const admin = createAdmin(attached, await secret(config.folder), () => ({
    version,
    startedAt,
    listeners: listeners.map(({ status }) => status),
    attached: attached.status(),
  }));
  await bindAdmin(admin, config);
  await Promise.all(listeners.map((listener) => listener.listen(stopping.signal)));
  if (!stopping.signal.aborted) {
    log("listening", { listeners: listeners.map(({ status: { name, address, port } }) => ({ name, address, port })) });
    await new Promise<void>((resolve) => stopping.signal.addEventListener("abort", () => resolve(), { once: true }));
  }
  const grace = AbortSignal.timeout(config.graceMs);
  const drained = Promise.all(listeners.map((listener) => listener.drain(grace)));
  log("stopping", { graceMs: config.graceMs }); // whoever reads it finds that nobody is let in any more
  await drained;
  attached.close();
  admin.close();
  admin.closeAllConnections();
  process.exit(0);
}

/** Each file alone: one that cannot be read is told and left out. */
async function lastGood(folder: string): Promise<AttachedDocument[]> {
  const path = join(folder, routesFolder);
  await mkdir(path, { recursive: true });
  const documents: AttachedDocument[] = [];
  for (const name of (await readdir(path)).sort()) {
    if (!name.endsWith(".json")) continue;
    try {
      documents.push(readDocument(await readFile(join(path, name), "utf8")));
    } catch (error) {
      log("a last good generation cannot be read", { file: name, problem: (error as Error).message });
    }
  }
  return documents;
}

/** Made once per volume. */
async function secret(folder: string): Promise<string> {
  const path = join(folder, tokenFile);
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(randomBytes(32).toString("base64url"));
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  const text = await readFile(path, "utf8");
  if (text.length < 32) throw new Error(`${path} is damaged; remove it`);
  return text;
}

function bindAdmin(admin: Server, { admin: { address, port } }: Config): Promise<void> {
  return new Promise((resolve, reject) => {
    admin.once("error", reject);
    admin.listen(port, address, () => resolve());
  });
}

function log(msg: string, fields: object): void {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), msg, ...fields })}\n`);
}
