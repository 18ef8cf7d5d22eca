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
import type { Duplex, Readable } from "node:stream";
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
  /** The engine's own, e.g. `25.0.3`. */
  readonly version: string;
  /** Asks for the version anew: an engine that was away may come back as another one. Throws EngineError. */
  renew(): Promise<void>;
  /** Host name for ports that containers publish on all addresses. */
  readonly hostname: string;
  /** The parsed answer. Throws EngineError. */
  call<T>(method: string, path: string, options?: CallOptions): Promise<T>;
  /** The answer's body, until `signal` aborts. Throws EngineError. */
  stream(method: string, path: string, options: CallOptions & { signal: AbortSignal }): Promise<Readable>;
  /** The connection itself, for calls that the engine answers by giving it away; closed when `signal` aborts. Throws EngineError. */
  duplex(path: string, body: object, signal: AbortSignal): Promise<Duplex>;
}

/** Asks the engine for its version, and pins ours to it (N1). Throws EngineError. */
export async function openEngine(address: EngineAddress): Promise<Engine> {
  const target = targetOf(address);
  const offered = async (): Promise<Offered> => (await ask(target, "GET", "/version", {})) as Offered;
  let theirs = await offered();
  let apiVersion = pinned(theirs.ApiVersion, theirs.MinAPIVersion);
  const versioned = (path: string): string => `/v${apiVersion}${path}`;
  return {
    get apiVersion() {
      return apiVersion;
    },
    get version() {
      return theirs.Version;
    },
    async renew() {
      theirs = await offered();
      apiVersion = pinned(theirs.ApiVersion, theirs.MinAPIVersion);
    },
    hostname: target.socketPath === undefined ? String(target.host) : "127.0.0.1",
    call: async <T>(method: string, path: string, options: CallOptions = {}) =>
      (await ask(target, method, versioned(path), options)) as T,
    async stream(method, path, options) {
      const response = await send(target, method, versioned(path), options);
      options.signal.addEventListener("abort", () => response.destroy(), { once: true });
      response.on("error", () => {}); // whoever reads is told
      return response;
    },
    duplex: (path, body, signal) => upgrade(target, versioned(path), body, signal),
  };
}

/** What an engine says about itself. */
interface Offered {
  Version: string;
  ApiVersion: string;
  MinAPIVersion?: string;
}

type ApiVersion = readonly [major: number, minor: number];

/** The newest version that both speak. Throws for an engine that is too old, or too new. */
export function pinned(newest: string, oldest = "1.12"): string {
  const theirs = { oldest: parsed(oldest), newest: parsed(newest) };
  if (theirs.newest === undefined || theirs.oldest === undefined || before(theirs.newest, oldestApi)) {
    throw new EngineError(0, `${offers(oldest, newest)}: the engine is too old`);
  }
  if (before(newestApi, theirs.oldest)) throw new EngineError(0, `${offers(oldest, newest)}: this agent is too old`);
  return (before(theirs.newest, newestApi) ? theirs.newest : newestApi).join(".");
}

const offers = (oldest: string, newest: string): string =>
  `the Docker Engine offers API ${oldest} to ${newest}, this agent speaks ${oldestApi.join(".")} to ${newestApi.join(".")}`;

function parsed(version: string): ApiVersion | undefined {
  const [, major, minor] = /^(\d+)\.(\d+)$/.exec(version) ?? [];
  return major === undefined ? undefined : [Number(major), Number(minor)];
}

function before(a: ApiVersion, b: ApiVersion): boolean {
  return a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
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
      const why = signal?.aborted === true ? "no answer in time, or called off" : refusalOf(error);
      reject(new EngineError(0, `the Docker Engine does not answer: ${why}`));
    });
    request.end(bytes);
  });
}

/** A container that lacks the socket's group is the mistake that everybody makes once. */
function refusalOf(error: NodeJS.ErrnoException): string {
  if (error.code !== "EACCES") return error.message;
  return `${error.message}: the agent's user needs the group of the socket (docker run --group-add "$(stat -c %g <socket>)")`;
}

/** Resolves with the connection once the engine has switched it over. */
function upgrade(target: Target, path: string, body: object, signal: AbortSignal): Promise<Duplex> {
  const bytes = Buffer.from(JSON.stringify(body));
  return new Promise((resolve, reject) => {
    const headers = {
      ...{ host: "docker", connection: "Upgrade", upgrade: "tcp" },
      ...{ "content-type": "application/json", "content-length": bytes.length },
    };
    const request = (target.tls ? requestTls : requestPlain)(
      { ...target, method: "POST", path, headers, agent: false, timeout: callWithinMs },
      (response) => {
        const refused = (text: string): void => reject(new EngineError(response.statusCode ?? 0, messageOf(text)));
        textOf(response).then(refused, reject);
      },
    );
    const leave = (): void => void request.destroy(new Error("left"));
    signal.addEventListener("abort", leave, { once: true });
    request.once("upgrade", (_response, socket, head) => {
      signal.removeEventListener("abort", leave);
      socket.on("error", () => {}); // whoever reads is told
      socket.setTimeout(0);
      if (head.length > 0) socket.unshift(head);
      signal.addEventListener("abort", () => socket.destroy(), { once: true });
      if (signal.aborted) socket.destroy();
      resolve(socket);
    });
    request.once("timeout", () => request.destroy(new Error("no answer in time")));
    request.once("error", (error) => {
      signal.removeEventListener("abort", leave);
      reject(new EngineError(0, `the Docker Engine cannot be reached: ${error.message}`));
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
