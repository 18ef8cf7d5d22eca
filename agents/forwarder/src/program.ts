/**
 * The forwarder's process.
 *
 *     main.ts <folder> [build] [stdout]
 *
 * Serves what config.json in its folder says, reads it anew at SIGHUP, and says
 * in status.json what is in force; or, with `stdout`, in a line of its output,
 * which is what reaches the agent out of a container. SIGTERM closes its ports
 * and ends it. It outlives the agent, and ends by itself when its folder has gone.
 *
 * P1: one process per folder: the lock is the kernel's, and who does not get it
 *     ends with 3 and touches nothing.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { forwardFiles, type ForwardDocument, type ForwardStatus } from "@bowline/agent-core/forwards";
import { Relays } from "./relays.ts";
import { Serving } from "./serving.ts";

/** Whoever removes the folder ends us; this is for a folder that was removed behind everybody's back. */
const lookForFolderMs = 1_000;
/** Descriptors for all else than relays, which have two each. */
const spareDescriptors = 256;
const maxRelays = 16_384;

const heldElsewhere = 3;

const [folder = "", build = "", sayTo = "status.json"] = process.argv.slice(2);
try {
  await lock(folder); // P1
  run(folder);
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException;
  process.stderr.write(`bowline forwarder: ${message}\n`);
  process.exit(code === "EADDRINUSE" ? heldElsewhere : 1);
}

function run(home: string): void {
  const relays = new Relays(relayLimit(), () => tell());
  const serving = new Serving(relays, () => tell());
  const identity = {
    pid: process.pid,
    startTime: readFileSync("/proc/self/stat", "latin1").split(") ").at(-1)?.split(" ")[19] ?? "",
    bootId: readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim(),
    build,
  };
  let refused: ForwardStatus["refused"];
  let work: Promise<void> = Promise.resolve();
  let telling: NodeJS.Immediate | undefined;

  /** Many ends at once are one status. */
  function tell(): void {
    telling ??= setImmediate(() => {
      telling = undefined;
      const status: ForwardStatus = {
        ...identity,
        revision: serving.revision,
        ...(refused === undefined ? {} : { refused }),
        closed: serving.closed,
        draining: relays.draining(),
      };
      const line = `${JSON.stringify(status)}\n`;
      if (sayTo === "stdout") return void process.stdout.write(line);
      const path = join(home, forwardFiles.status);
      try {
        writeFileSync(`${path}.new`, line, { mode: 0o600 });
        renameSync(`${path}.new`, path);
      } catch (error) {
        log("the status is not written", error); // a full disk: what is served goes on
      }
    });
  }

  async function read(): Promise<void> {
    try {
      const document = JSON.parse(readFileSync(join(home, forwardFiles.config), "utf8")) as ForwardDocument;
      refused = await serving.take(document);
    } catch (error) {
      log("the configuration is not read", error);
    }
    tell();
  }

  process.on("SIGHUP", () => {
    work = work.then(read);
  });
  process.on("SIGTERM", () => {
    work = work.then(async () => {
      await serving.close();
      relays.cutAll();
      process.exit(0);
    });
  });
  setInterval(() => {
    try {
      statSync(home);
    } catch {
      process.exit(0); // nobody can say any more what is to be served
    }
  }, lookForFolderMs);
  work = work.then(read);
}

/** The name is the folder's, wherever it is reached by. */
async function lock(home: string): Promise<void> {
  const { dev, ino } = statSync(home);
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(`\0bowline-forwarder-${dev}-${ino}`, resolve);
  });
}

function relayLimit(): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1")) ?? [];
  const descriptors = soft === undefined ? Infinity : Number(soft);
  return Math.max(1, Math.min(maxRelays, Math.floor((descriptors - spareDescriptors) / 2)));
}

function log(message: string, error: unknown): void {
  process.stderr.write(`bowline forwarder: ${message}: ${error instanceof Error ? error.message : String(error)}\n`);
}
