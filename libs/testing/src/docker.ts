/**
 * A real Docker Engine for the tests that need one: one per jest run, started
 * when the first file asks (engine-server.ts), or TEST_DOCKER_HOST.
 *
 * No registry is in reach: images are made here, of files.
 */
import { execFile, spawn } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { request } from "node:http";
import { createConnection } from "node:net";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";
import { engineSocketOf, testSettings } from "./config.ts";
import { removeFolder, temporaryFolder } from "./folders.ts";
import type { EngineAnswer } from "./jest/holder.ts";

export interface TestDocker {
  /** As `--docker-host` takes it: `unix:///…`. */
  host: string;
  /** One call of the engine's API; the answer, parsed if it is JSON. Throws what it refuses. */
  ask(method: string, path: string, body?: Readable | object): Promise<unknown>;
  /**
   * Makes an image of a Node that runs here, its libraries and
   * `files` (path inside: path here). Nothing where the engine has one of that name.
   */
  importNode(reference: string, files: Readonly<Record<string, string>>): Promise<void>;
}

/** Download, start and a busy machine. */
const engineWithinMs = 180_000;

/** An import of 130 MB on a slow disk is the longest call. */
const askWithinMs = 60_000;

let shared: Promise<string> | undefined;

/** Throws with what to install if there is none. */
export async function testDocker(): Promise<TestDocker> {
  const host = testSettings().dockerHost ?? (await (shared ??= askHolder()));
  const socketPath = host.replace(/^unix:\/\//, "");
  const docker: TestDocker = {
    host,
    ask: (method, path, body) => ask(socketPath, method, path, body),
    async importNode(reference, files) {
      const known = await docker.ask("GET", `/images/${reference}/json`).catch(() => undefined);
      if (known !== undefined) return;
      const folder = temporaryFolder();
      await fill(folder, files);
      const [repository, tag = "latest"] = reference.split(":");
      const tar = spawn("tar", ["-C", folder, "-c", "."], { stdio: ["ignore", "pipe", "inherit"] });
      await docker.ask("POST", `/images/create?fromSrc=-&repo=${repository}&tag=${tag}`, tar.stdout);
      await removeFolder(folder);
    },
  };
  return docker;
}

/** Links are followed: an image needs no more than what runs. */
async function fill(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
  const { stdout } = await promisify(execFile)("ldd", [process.execPath]);
  const libraries = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path ?? "");
  const all = { "/bin/node": process.execPath, ...Object.fromEntries(libraries.map((path) => [path, path])), ...files };
  for (const [inside, outside] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, inside)), { recursive: true });
    copyFileSync(outside, join(folder, inside));
  }
  mkdirSync(join(folder, "tmp"), { mode: 0o1777 });
}

function ask(socketPath: string, method: string, path: string, body?: Readable | object): Promise<unknown> {
  const stream = body !== undefined && "pipe" in body ? (body as Readable) : undefined;
  const headers = body === undefined ? {} : { "content-type": stream ? "application/x-tar" : "application/json" };
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
