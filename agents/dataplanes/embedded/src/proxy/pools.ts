/**
 * Connections to one backend, kept alive and bounded.
 *
 * L1: no connection is opened to an address that was not just checked: a name
 *     is resolved here, and only the checked addresses are dialled (so that a
 *     name that changes its address cannot lead inside).
 */
import { lookup as resolveName, type LookupAddress } from "node:dns";
import { Agent as HttpAgent, type ClientRequestArgs } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { connect as connectTcp, isIP, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Duplex } from "node:stream";
import { isPrivateAddress } from "../addresses.ts";

/** Open connections per backend: one backend cannot use up the process's 64 Ki file descriptors. */
const maxConnections = 1024;
/** Idle connections kept per backend. */
const maxIdle = 64;
/** An idle connection is closed after this; shorter than the minute that most servers keep theirs. */
const idleMs = 30_000;
/** How long a resolved name is used for new connections: a burst asks the resolver once. */
const resolvedForMs = 5_000;

export interface PoolTarget {
  protocol: "http:" | "https:";
  /** A name or an address without brackets. */
  host: string;
  port: number;
  connectTimeoutMs: number;
  allowPrivate: boolean;
}

/** Why no connection was made. */
export class ConnectError extends Error {
  readonly reason: "PRIVATE_BACKEND" | "CONNECT_TIMEOUT";
  constructor(reason: "PRIVATE_BACKEND" | "CONNECT_TIMEOUT", message: string) {
    super(message);
    this.reason = reason;
  }
}

export class Pool {
  readonly key: string;
  readonly target: PoolTarget;
  readonly agent: HttpAgent;
  #resolved: { addresses: readonly LookupAddress[]; at: number } | undefined;

  constructor(target: PoolTarget) {
    this.target = target;
    this.key = JSON.stringify(target);
    const Agent = target.protocol === "https:" ? HttpsAgent : HttpAgent;
    this.agent = new Agent({
      keepAlive: true,
      maxSockets: maxConnections,
      maxFreeSockets: maxIdle,
      timeout: idleMs,
      scheduling: "lifo",
    });
    this.agent.createConnection = () => this.#connect();
  }

  /** What node:http needs to send a request here. `fresh`: on a connection that no request was on. */
  options(fresh: boolean): ClientRequestArgs {
    const { protocol, host, port } = this.target;
    // Without an agent node:http takes any connection for its own protocol.
    return fresh
      ? { host, port, setHost: false, createConnection: () => this.#connect() }
      : { protocol, host, port, setHost: false, agent: this.agent };
  }

  /** Lets idle connections go now and busy ones when their request has ended. */
  drain(): void {
    // Documented behaviour of http.Agent: a connection that becomes free is closed unless keepAlive is set.
    (this.agent as unknown as { keepAlive: boolean }).keepAlive = false;
    for (const sockets of Object.values(this.agent.freeSockets)) {
      for (const socket of sockets ?? []) socket.destroy();
    }
  }

  #connect(): Duplex {
    const { protocol, host, port, connectTimeoutMs, allowPrivate } = this.target;
    const common = { host, port, lookup: this.#lookup, noDelay: true };
    let socket: Socket;
    if (!allowPrivate && isIP(host) !== 0 && isPrivateAddress(host)) {
      // A connection must be returned: one that fails as a dialled one would.
      socket = connectTcp({ host: refusedName, port, lookup: refuse(host) });
    } else {
      socket =
        protocol === "https:"
          ? connectTls({ ...common, servername: isIP(host) === 0 ? host : "", ALPNProtocols: ["http/1.1"] })
          : connectTcp(common);
    }
    const timer = setTimeout(() => {
      socket.destroy(new ConnectError("CONNECT_TIMEOUT", `no connection within ${connectTimeoutMs} ms`));
    }, connectTimeoutMs);
    socket.once(protocol === "https:" ? "secureConnect" : "connect", () => clearTimeout(timer));
    socket.once("close", () => clearTimeout(timer));
    return socket;
  }

  /** L1. */
  readonly #lookup: LookupFunction = (name, options, callback) => {
    const answer = (addresses: readonly LookupAddress[]): void => {
      if (options.all === true) callback(null, [...addresses]);
      else callback(null, addresses[0]!.address, addresses[0]!.family);
    };
    const now = performance.now();
    if (this.#resolved !== undefined && now - this.#resolved.at < resolvedForMs) {
      answer(this.#resolved.addresses);
      return;
    }
    resolveName(name, { all: true }, (error, addresses) => {
      if (error !== null) {
        callback(error, []);
        return;
      }
      const allowed = this.target.allowPrivate ? addresses : addresses.filter((a) => !isPrivateAddress(a.address));
      if (allowed.length === 0) {
        refuse(addresses.map((a) => a.address).join(", "))(name, options, callback);
        return;
      }
      this.#resolved = { addresses: allowed, at: performance.now() };
      answer(allowed);
    });
  };
}

const refusedName = "private.invalid";

function refuse(address: string): LookupFunction {
  return (_name, _options, callback) => {
    callback(new ConnectError("PRIVATE_BACKEND", `${address} is a private address`), []);
  };
}
