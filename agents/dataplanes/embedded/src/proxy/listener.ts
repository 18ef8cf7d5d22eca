/**
 * One listener: an HTTP/1.1 server whose every request is planned, counted and
 * answered. Node's parser is strict here: both Content-Length and
 * Transfer-Encoding, doubled lengths, folded headers and bare line feeds are
 * refused with 400 and the connection is closed.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { ListenerConfig } from "../config.ts";
import type { ListenerStatus } from "../document.ts";
import { answer, answerJson } from "./answers.ts";
import type { Attached } from "./attached.ts";
import { forward } from "./forward.ts";
import { planFor, type Plan } from "./plan.ts";
import type { Counters } from "./served.ts";
import { forwardUpgrade, refusing } from "./upgrade.ts";

/** Request line and headers together; larger is answered 431. */
const maxHeaderBytes = 16 * 1024;
/** A client has this long for its headers (against slow-loris clients). */
const headersTimeoutMs = 15_000;
/** An idle connection of a client is kept this long; longer than the minute that most balancers keep theirs. */
const keepAliveMs = 75_000;
/** A connection on which nothing moves at all; the longest request timeout of a route. */
const silenceMs = 3_600_000;
/** Clients at once on one listener; each may need a second descriptor, of the usual 64 Ki or less. */
const maxClients = 16_384;
/** How a request without an answer is counted, as nginx writes it. */
const clientLeft = 499;
/** Wait between tries to bind a port that is in use: the process before may still drain. */
const bindAgainMs = 250;
/** Afterwards the process ends, so that its runtime shows what is wrong. */
const bindForMs = 15_000;

export class Listener {
  readonly #server: Server;
  readonly #config: ListenerConfig;
  readonly #attached: Attached;
  readonly #upgraded = new Set<Duplex>();
  #state: ListenerStatus["state"] = "CLOSED";
  #problem = "";
  #draining = false;
  /** The configured one, or which the system chose for 0. */
  #port: number;

  constructor(config: ListenerConfig, attached: Attached) {
    this.#config = config;
    this.#port = config.port;
    this.#attached = attached;
    this.#server = createServer({
      maxHeaderSize: maxHeaderBytes,
      headersTimeout: headersTimeoutMs,
      keepAliveTimeout: keepAliveMs,
      // Bodies may take as long as the route lets them; a stalled one is ended in forward.ts.
      requestTimeout: 0,
      connectionsCheckingInterval: 5_000,
      insecureHTTPParser: false,
      noDelay: true,
      shouldUpgradeCallback: (req) => req.headers.upgrade?.toLowerCase() === "websocket",
    });
    this.#server.timeout = silenceMs;
    this.#server.maxConnections = maxClients;
    // The size is bounded; a count would drop headers in silence.
    this.#server.maxHeadersCount = 0;
    const onRequest = (req: IncomingMessage, res: ServerResponse): void => this.#serve(req, res);
    this.#server.on("request", onRequest);
    this.#server.on("checkContinue", onRequest);
    this.#server.on("upgrade", (req, socket, head) => this.#serveUpgrade(req, socket, head));
  }

  get status(): ListenerStatus {
    const { name, address } = this.#config;
    return { name, address, port: this.#port, state: this.#state, problem: this.#problem };
  }

  /** Binds, trying again while the port is in use. Throws after `bindForMs`, or at once for another reason. */
  async listen(signal: AbortSignal): Promise<void> {
    const until = performance.now() + bindForMs;
    for (;;) {
      const error = await this.#bind();
      if (error === undefined) return;
      this.#state = error.code === "EADDRINUSE" ? "PORT_TAKEN" : "FAILED";
      this.#problem = `${this.#config.address}:${this.#config.port}: ${error.message}`;
      if (this.#state === "FAILED" || performance.now() > until) {
        throw new Error(`${this.#state}: listener "${this.#config.name}" at ${this.#problem}`, { cause: error });
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, bindAgainMs);
        signal.addEventListener("abort", done, { once: true });
        function done(): void {
          clearTimeout(timer);
          signal.removeEventListener("abort", done);
          resolve();
        }
      });
      if (signal.aborted) return;
    }
  }

  #bind(): Promise<NodeJS.ErrnoException | undefined> {
    const { address, port } = this.#config;
    return new Promise((resolve) => {
      const failed = (error: NodeJS.ErrnoException): void => resolve(error);
      this.#server.once("error", failed);
      this.#server.listen({ host: address, port, exclusive: true }, () => {
        this.#server.off("error", failed);
        const bound = this.#server.address();
        if (typeof bound === "object" && bound !== null) this.#port = bound.port;
        this.#state = "LISTENING";
        this.#problem = "";
        resolve(undefined);
      });
    });
  }

  /** Takes nothing new; resolves when the last request has ended, or cuts them when `signal` aborts. */
  async drain(signal: AbortSignal): Promise<void> {
    this.#draining = true;
    this.#state = "CLOSED";
    const cut = (): void => {
      this.#server.closeAllConnections();
      for (const socket of this.#upgraded) socket.destroy();
    };
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    if (signal.aborted) cut();
    else signal.addEventListener("abort", cut, { once: true });
    await closed;
    signal.removeEventListener("abort", cut);
  }

  #serve(req: IncomingMessage, res: ServerResponse): void {
    if (this.#draining) res.shouldKeepAlive = false;
    res.once("close", () => {
      if (this.#draining) setImmediate(() => this.#server.closeIdleConnections());
    });
    try {
      const plan = planFor(req, this.#attached, this.#port);
      const counters = countersOf(plan);
      if (counters !== undefined) {
        begin(counters);
        res.once("close", () => end(counters, res.headersSent ? res.statusCode : clientLeft));
      }
      if (plan.kind === "forward") forward(req, res, plan, this.#port);
      else this.#answer(res, plan);
    } catch (error) {
      defect(error, res);
    }
  }

  #serveUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#upgraded.add(socket);
    socket.once("close", () => this.#upgraded.delete(socket));
    socket.on("error", () => {
      // `close` follows.
    });
    try {
      const plan = planFor(req, this.#attached, this.#port);
      const counters = countersOf(plan);
      if (counters !== undefined) {
        begin(counters);
        socket.once("close", () => end(counters, 101));
      }
      if (plan.kind === "forward") forwardUpgrade(req, socket, head, plan, this.#port);
      else this.#answer(refusing(req, socket), plan);
    } catch (error) {
      defect(error, refusing(req, socket));
    }
  }

  #answer(res: ServerResponse, plan: Exclude<Plan, { kind: "forward" }>): void {
    switch (plan.kind) {
      case "answer":
        answer(res, plan.reason, plan.headers);
        break;
      case "empty":
        res.writeHead(plan.status, plan.headers);
        res.end();
        break;
      case "probe": {
        const { deploymentId } = plan;
        const generation = this.#attached.generation(deploymentId);
        if (generation === undefined) answer(res, "NOT_SERVED");
        else answerJson(res, 200, { deploymentId, generation });
        break;
      }
      default:
        plan satisfies never;
    }
  }
}

function countersOf(plan: Plan): Counters | undefined {
  return plan.kind === "probe" ? undefined : plan.entry?.deployment.counters;
}

/** One request ends with it, not the process and everybody else's. */
function defect(error: unknown, res: ServerResponse): void {
  process.stderr.write(`bowline data plane: a request failed: ${(error as Error).stack}\n`);
  if (res.headersSent) res.destroy();
  else answer(res, "INTERNAL");
}

function begin(counters: Counters): void {
  counters.requests += 1;
  counters.inFlight += 1;
}

function end(counters: Counters, status: number): void {
  counters.inFlight -= 1;
  const kind = `${Math.trunc(status / 100)}xx`;
  counters.answers[kind] = (counters.answers[kind] ?? 0) + 1;
}
