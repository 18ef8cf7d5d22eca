/** The connections to Redis: one for commands, one that listens; a cluster has both inside. */
import { createHash } from "node:crypto";
import { Cluster, Redis, type RedisOptions } from "ioredis";
import type { RedisAddress } from "./address.ts";

/** Redis answers in well below a millisecond; whoever takes longer than this is as good as away. */
export const commandTimeoutMs = 250;
/** A dial across a continent, twice. */
const connectTimeoutMs = 2_000;
/** Between dials: a restarted Redis is found soon, a dead one isn't hammered. */
const redialMaxMs = 2_000;
/** Finds a peer that vanished without a word, beside the probes. */
const keepAliveMs = 10_000;

/** What commands are given with; the same for one server and for a cluster. */
export type RedisCommands = Pick<Redis, "set" | "publish" | "hmget"> & {
  /** Runs a script, whose text goes over only where Redis does not know it yet. */
  run(lua: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>;
  /** Whether a script may have many keys: in a cluster they lie on different nodes. */
  manyKeys: boolean;
};

export interface RedisClients {
  commands: RedisCommands;
  /** True where PUBLISH counts every listener; a node of a cluster counts its own only. */
  countsListeners: boolean;
  close(): void;
}

export interface RedisListening {
  /** Subscribed on every connection that listens. */
  channels: readonly string[];
  message: (channel: string, text: string) => void;
  /** It listens from now on; what was said before may have been missed. */
  listening: () => void;
  /** A connection's error, for the log; it dials again by itself. */
  error: (error: Error) => void;
}

export interface RedisCredentials {
  /** Over the URL's. */
  password: string;
  /** PEM; undefined: the system's. */
  ca: string | undefined;
  name: string;
}

/** Dials at once and again after every loss, until closed. */
export function openClients(address: RedisAddress, credentials: RedisCredentials, on: RedisListening): RedisClients {
  const options = optionsOf(address, credentials);
  return address.mode === "cluster" ? openCluster(address, options, on) : openPair(address, options, on);
}

function optionsOf(address: RedisAddress, { password, ca, name }: RedisCredentials): RedisOptions {
  const secret = password || address.password;
  return {
    protocol: 2, // RESP3 needs Redis 6 and gives nothing here
    enableOfflineQueue: false, // a command that can't go now is not worth sending later
    commandTimeout: commandTimeoutMs,
    maxRetriesPerRequest: 1,
    autoResubscribe: false, // by hand, so that each gap is known
    connectTimeout: connectTimeoutMs,
    keepAlive: keepAliveMs,
    connectionName: name,
    disableClientInfo: true,
    retryStrategy: redialMs,
    // The master that we hold became a replica: ask again who is it.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
    ...(address.username === "" ? {} : { username: address.username }),
    ...(secret === "" ? {} : { password: secret }),
    ...(address.tls ? { tls: ca === undefined ? {} : { ca } } : {}),
  };
}

function redialMs(times: number): number {
  return Math.min(redialMaxMs, 50 * 2 ** Math.min(times, 10)) * (0.5 + Math.random() / 2);
}

function openPair(address: RedisAddress, options: RedisOptions, on: RedisListening): RedisClients {
  const [first] = address.nodes;
  const where: RedisOptions =
    address.mode === "sentinel"
      ? {
          sentinels: address.nodes.map((node) => ({ ...node })),
          name: address.master,
          failoverDetector: true,
          sentinelRetryStrategy: redialMs,
          sentinelCommandTimeout: connectTimeoutMs,
          enableTLSForSentinelMode: address.tls,
          ...(address.tls ? { sentinelTLS: options.tls ?? {} } : {}),
        }
      : first?.port === 0
        ? { path: first.host }
        : { host: first?.host ?? "", port: first?.port ?? 0 };
  const commands = new Redis({ ...options, ...where, db: address.db });
  const listener = new Redis({ ...options, ...where, db: address.db });
  for (const client of [commands, listener]) client.on("error", on.error);
  listener.on("message", on.message);
  listener.on("ready", () => {
    listener.subscribe(...on.channels).then(on.listening, (error: unknown) => {
      on.error(error instanceof Error ? error : new Error(String(error)));
      listener.disconnect(true); // dials again, and subscribes then
    });
  });
  return {
    commands: withScripts(commands, true),
    countsListeners: true,
    close() {
      commands.disconnect();
      listener.disconnect();
    },
  };
}

function openCluster(address: RedisAddress, options: RedisOptions, on: RedisListening): RedisClients {
  const { retryStrategy: _, enableOfflineQueue: __, ...redisOptions } = options;
  const cluster = new Cluster(
    address.nodes.map((node) => ({ ...node })),
    {
      redisOptions,
      enableOfflineQueue: false,
      clusterRetryStrategy: redialMs,
      slotsRefreshTimeout: connectTimeoutMs,
      // A node that restarts on the same address is dialled again.
      clusterNodeRetryStrategy: redialMs,
    },
  );
  cluster.on("error", on.error);
  cluster.on("node error", on.error);
  cluster.on("message", on.message);
  cluster.on("ready", () => void cluster.subscribe(...on.channels).then(on.listening, on.error));
  // The node that carries the subscription may have been the one that left.
  cluster.on("-node", on.listening);
  return { commands: withScripts(cluster, false), countsListeners: false, close: () => cluster.disconnect() };
}

function withScripts(client: Redis | Cluster, manyKeys: boolean): RedisCommands {
  const hashes = new Map<string, string>();
  const hashOf = (lua: string): string => {
    const hash = hashes.get(lua) ?? createHash("sha1").update(lua).digest("hex");
    hashes.set(lua, hash);
    return hash;
  };
  return Object.assign(client, {
    manyKeys,
    async run(...[lua, keys, args]: Parameters<RedisCommands["run"]>): Promise<unknown> {
      try {
        return await client.evalsha(hashOf(lua), keys.length, ...keys, ...args);
      } catch (error) {
        // It was never there, or a restart or SCRIPT FLUSH took it; EVAL keeps it again.
        if (!(error instanceof Error && error.message.startsWith("NOSCRIPT"))) throw error;
        return client.eval(lua, keys.length, ...keys, ...args);
      }
    },
  });
}
