/**
 * The Docker Engine's API, as far as this runtime needs it: HTTP over a unix
 * socket or TCP, spoken with node:http. docs/decisions says why no library.
 *
 * N1: the API's version is the engine's own or ours, whichever is smaller: an
 *     old engine answers, and a new one behaves as the one that we know.
 * N2: every call has an end; only streams (events, logs, pulls) go on until
 *     their signal aborts.
 */
import { request as requestPlain, type IncomingMessage, type RequestOptions } from "node:http";
import { request as requestTls } from "node:https";
import type { Readable } from "node:stream";
import { Refusal } from "@bowline/agent-core/runtimes";

/** Of Docker 25; what we use is in 1.40 (19.03) already. */
const newestApi = [1, 44] as const;
const oldestApi = [1, 40] as const;

/** An engine under load takes seconds to make a container; one that hangs is away. */
const callWithinMs = 60_000;

/** Bound of an answer that is kept as a whole. */
const maxAnswerBytes = 32 * 1024 * 1024;

/** What the engine refuses, with its words; to a converge a failure that is worth a retry. */
export class EngineError extends Refusal {
  /** HTTP status; 0: it was not reached. */
  readonly status: number;

  constructor(status: number, message: string) {
    super("START_FAILED", message, true);
    this.status = status;
  }
}

export interface EngineAddress {
  /** `unix:///path`, `tcp://host:port`. */
  host: string;
  /** PEM; with it `tcp://` is TLS. */
  tls?: { ca?: Buffer; cert?: Buffer; key?: Buffer };
}

export interface CallOptions {
  query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Sent as JSON, or as it is. */
  body?: object | Buffer;
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal;
  /** Instead of 60 s. */
  withinMs?: number;
}

export interface Engine {
  /** `1.41`. */
  readonly apiVersion: string;
  /** Host name for ports that containers publish on all addresses. */
  readonly hostname: string;
  /** The parsed answer. Throws EngineError. */
  call<T>(method: string, path: string, options?: CallOptions): Promise<T>;
  /** The answer's body, until `signal` aborts. Throws EngineError. */
  stream(method: string, path: string, options: CallOptions & { signal: AbortSignal }): Promise<Readable>;
}

/** Asks the engine for its version, and pins ours to it (N1). Throws EngineError. */
export async function openEngine(address: EngineAddress): Promise<Engine> {
  const target = targetOf(address);
  const { ApiVersion } = (await ask(target, "GET", "/version", {})) as { ApiVersion: string };
  const apiVersion = pinned(ApiVersion);
  const versioned = (path: string): string => `/v${apiVersion}${path}`;
  return {
    apiVersion,
    hostname: target.socketPath === undefined ? String(target.host) : "127.0.0.1",
    call: async <T>(method: string, path: string, options: CallOptions = {}) =>
      (await ask(target, method, versioned(path), options)) as T,
    async stream(method, path, options) {
      const response = await send(target, method, versioned(path), options);
      options.signal.addEventListener("abort", () => response.destroy(), { once: true });
      response.on("error", () => {}); // whoever reads is told
      return response;
    },
  };
}

/** The smaller of the two. Throws for an engine that is too old. */
export function pinned(theirs: string): string {
  const [major = 0, minor = 0] = theirs.split(".").map(Number);
  const before = (a: readonly number[], b: readonly number[]): boolean =>
    (a[0] ?? 0) - (b[0] ?? 0) < 0 || (a[0] === b[0] && (a[1] ?? 0) < (b[1] ?? 0));
  if (Number.isNaN(major + minor) || before([major, minor], oldestApi)) {
    throw new EngineError(0, `the engine offers API ${theirs}; this agent needs ${oldestApi.join(".")} or newer`);
  }
  return (before([major, minor], newestApi) ? [major, minor] : newestApi).join(".");
}

type Target = RequestOptions & { tls: boolean };

function targetOf({ host, tls }: EngineAddress): Target {
  const url = URL.parse(host);
  if (url?.protocol === "unix:") return { socketPath: decodeURIComponent(url.pathname), tls: false };
  if (url?.protocol !== "tcp:" || url.hostname === "") {
    throw new EngineError(0, `${host}: write unix:///path/of/docker.sock or tcp://host:port`);
  }
  const port = url.port === "" ? (tls === undefined ? 2375 : 2376) : Number(url.port);
  return { host: url.hostname.replace(/^\[(.*)\]$/, "$1"), port, tls: tls !== undefined, ...tls };
}

async function ask(target: Target, method: string, path: string, options: CallOptions): Promise<unknown> {
  const limit = AbortSignal.timeout(options.withinMs ?? callWithinMs);
  const signal = options.signal === undefined ? limit : AbortSignal.any([options.signal, limit]);
  const text = await textOf(await send(target, method, path, { ...options, signal }));
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text; // `/_ping`, and streams of progress that are read as a whole
  }
}

/** Resolves with the head of a good answer. */
function send(target: Target, method: string, path: string, options: CallOptions): Promise<IncomingMessage> {
  const { body, query = {}, headers = {}, signal } = options;
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) asked.set(name, String(value));
  const suffix = asked.size === 0 ? "" : `?${asked.toString()}`;
  const bytes = body === undefined || Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  const type = Buffer.isBuffer(body) ? "application/x-tar" : "application/json";
  const length = bytes === undefined ? 0 : bytes.length;
  return new Promise((resolve, reject) => {
    const request = (target.tls ? requestTls : requestPlain)(
      {
        ...target,
        method,
        path: path + suffix,
        agent: false,
        ...(signal === undefined ? {} : { signal }),
        headers: { host: "docker", "content-type": type, "content-length": length, ...headers },
      },
      (response) => {
        const status = response.statusCode ?? 0;
        if (status >= 200 && status < 400) return resolve(response); // 304: it is so already
        textOf(response).then((text) => reject(new EngineError(status, messageOf(text))), reject);
      },
    );
    request.once("error", (error) => {
      const why = signal?.aborted === true ? "no answer in time, or called off" : error.message;
      reject(new EngineError(0, `the Docker Engine does not answer: ${why}`));
    });
    request.end(bytes);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > maxAnswerBytes) throw new EngineError(0, "the Docker Engine's answer is too long");
      parts.push(part);
    }
  } catch (error) {
    if (error instanceof EngineError) throw error;
    throw new EngineError(0, `the Docker Engine's answer was cut: ${String(error)}`);
  }
  return Buffer.concat(parts).toString("utf8").trim();
}

function messageOf(text: string): string {
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    return typeof message === "string" ? message : text;
  } catch {
    return text;
  }
}

/** Lines of an answer. It throws where the answer is cut; readline would wait for ever. */
export async function* linesOf(stream: Readable): AsyncIterable<string> {
  let rest = "";
  for await (const chunk of stream.setEncoding("utf8") as AsyncIterable<string>) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    yield* lines.filter((line) => line.trim() !== "");
  }
  if (rest.trim() !== "") yield rest;
}
