/**
 * A real Docker Engine for the tests that need one: one per jest run, started
 * when the first file asks (engine-server.ts), or TEST_DOCKER_HOST.
 *
 * No registry is in reach: images are made here, of files.
 */
import { execFile, spawn } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { request } from "node:http";
import { createConnection } from "node:net";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";
import { engineSocketOf, testSettings } from "./config.ts";
import { findProgram } from "./debian-programs.ts";
import { atEnd } from "./endings.ts";
import { type EngineOptions, type EngineServer, startEngineServer } from "./engine-server.ts";
import { removeFolder, temporaryFolder } from "./folders.ts";
import type { EngineAnswer } from "./jest/holder.ts";

export interface TestDocker {
  /** As `--docker-host` takes it: `unix:///…`. */
  host: string;
  /** One call of the engine's API; the answer, parsed if it is JSON. Throws what it refuses. */
  ask(method: string, path: string, body?: Readable | object, headers?: Record<string, string>): Promise<unknown>;
  /**
   * Makes an image of a Node that runs here, its libraries and
   * `files` (path inside: path here). Nothing where the engine has one of that name.
   */
  importNode(reference: string, files: Readonly<Record<string, string>>): Promise<void>;
  /**
   * Makes an image of 2 MB: a static busybox as `/bin/busybox` and all its commands, and `files`.
   * `changes` are lines of a Dockerfile: `USER 1000`, `HEALTHCHECK CMD …`.
   */
  importBusybox(
    reference: string,
    files?: Readonly<Record<string, string>>,
    changes?: readonly string[],
  ): Promise<void>;
}

/** Download, start and a busy machine. */
const engineWithinMs = 180_000;

/** An import of 130 MB on a slow disk is the longest call. */
const askWithinMs = 60_000;

let shared: Promise<string> | undefined;

/** Throws with what to install if there is none. */
export async function testDocker(): Promise<TestDocker> {
  return dockerAt(testSettings().dockerHost ?? (await (shared ??= askHolder())));
}

/** An engine of one test, which may be ended and started again. */
export interface OwnDocker extends TestDocker {
  /** Ends it; its containers are ended, and kept. */
  halt(): Promise<void>;
  /** Starts it again with what it has. */
  start(): Promise<void>;
}

/** Starts one with its data in a folder that ends with the test. Needs root, whatever TEST_DOCKER_HOST says. */
export async function ownDocker(options: EngineOptions = {}): Promise<OwnDocker> {
  const folder = temporaryFolder();
  let running: EngineServer | undefined = await startEngineServer(folder, options);
  const docker = dockerAt(running.host);
  atEnd(async () => {
    running ??= await startEngineServer(folder, options); // it alone knows what it left on the host
    await running.stop();
  });
  return {
    ...docker,
    async halt() {
      await running?.halt();
      running = undefined;
    },
    async start() {
      running ??= await startEngineServer(folder, options);
    },
  };
}

function dockerAt(host: string): TestDocker {
  const socketPath = host.replace(/^unix:\/\//, "");
  const docker: TestDocker = {
    host,
    ask: (method, path, body, headers) => ask(socketPath, method, path, body, headers),
    async importNode(reference, files) {
      if (await has(docker, reference)) return;
      const folder = temporaryFolder();
      const libraries = await librariesOf(process.execPath);
      fill(folder, { "/bin/node": process.execPath, ...libraries, ...files });
      await importFolder(docker, reference, folder, []);
    },
    async importBusybox(reference, files = {}, changes = []) {
      if (await has(docker, reference)) return;
      const busybox = await findBusybox();
      const folder = temporaryFolder();
      fill(folder, { "/bin/busybox": busybox, ...files });
      await promisify(execFile)(busybox, ["--install", "-s", join(folder, "bin")]);
      for (const name of readdirSync(join(folder, "bin"))) {
        if (name === "busybox") continue;
        rmSync(join(folder, "bin", name)); // it leads to where busybox is here
        symlinkSync("busybox", join(folder, "bin", name));
      }
      await importFolder(docker, reference, folder, ["ENV PATH=/bin", ...changes]);
    },
  };
  return docker;
}

async function has(docker: TestDocker, reference: string): Promise<boolean> {
  const known = await docker.ask("GET", `/images/${reference}/json`).catch(() => undefined);
  return known !== undefined;
}

async function importFolder(docker: TestDocker, reference: string, folder: string, changes: string[]): Promise<void> {
  const [repository = "", tag = "latest"] = reference.split(":");
  const query = new URLSearchParams({ fromSrc: "-", repo: repository, tag });
  for (const change of changes) query.append("changes", change);
  const tar = spawn("tar", ["-C", folder, "-c", "."], { stdio: ["ignore", "pipe", "inherit"] });
  await docker.ask("POST", `/images/create?${query.toString()}`, tar.stdout);
  await removeFolder(folder);
}

async function findBusybox(): Promise<string> {
  const found = await findProgram({
    name: "busybox-static", // not the one of the path: that may need libraries
    path: "bin/busybox",
    packages: ["busybox-static"],
    missing:
      "Docker tests need a static busybox: let Debian's package busybox-static be fetched (apt-get has to reach a mirror)",
  });
  return found.program;
}

/** What a program needs, by path; an image needs no more than what runs. */
async function librariesOf(program: string): Promise<Record<string, string>> {
  const { stdout } = await promisify(execFile)("ldd", [program]);
  const libraries = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path ?? "");
  return Object.fromEntries(libraries.map((path) => [path, path]));
}

/** Links are followed. */
function fill(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [inside, outside] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, inside)), { recursive: true });
    copyFileSync(outside, join(folder, inside));
  }
  mkdirSync(join(folder, "tmp"), { recursive: true });
  chmodSync(join(folder, "tmp"), 0o1777); // whatever our umask is
}

function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: Readable | object,
  given: Record<string, string> = {},
): Promise<unknown> {
  const stream = body !== undefined && "pipe" in body ? (body as Readable) : undefined;
  const type = stream ? "application/x-tar" : "application/json";
  const headers = { ...given, ...(body === undefined ? {} : { "content-type": type }) };
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, headers, agent: false, timeout: askWithinMs }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => {
        if ((response.statusCode ?? 500) >= 300) return reject(new Error(`${method} ${path}: ${text.trim()}`));
        resolve(/^[[{]/.test(text) && !text.trim().includes("\n") ? JSON.parse(text) : text);
      });
    });
    sent.on("timeout", () => sent.destroy(new Error(`${method} ${path}: no answer`)));
    sent.on("error", reject);
    if (stream !== undefined) stream.pipe(sent);
    else sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** Asks for the shared engine; the first of a run waits until it is up. */
function askHolder(): Promise<string> {
  const { holderSocket } = testSettings();
  if (holderSocket === undefined) throw new Error("outside of jest, set TEST_DOCKER_HOST");
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = createConnection(engineSocketOf(holderSocket));
    socket.setEncoding("utf8").setTimeout(engineWithinMs, () => socket.destroy(new Error("no Docker Engine came up")));
    socket.on("data", (chunk: string) => (text += chunk));
    socket.on("error", reject);
    socket.on("close", () => {
      const answer: EngineAnswer = text === "" ? { ok: false, message: "the holder ended" } : JSON.parse(text);
      if (answer.ok) resolve(answer.host);
      else reject(new Error(`no Docker Engine for tests: ${answer.message}`));
    });
  });
}
