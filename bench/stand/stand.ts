/**
 * Where a scenario stands: a durable PostgreSQL, a Redis, processes of Bowline
 * and of peers, all of this run's own and gone with it.
 */
import { cp, mkdtemp } from "node:fs/promises";
import { realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type DatabaseAddress, type EmbeddedPostgres, openDatabase, runEmbeddedPostgres } from "@bowline/db";
import {
  removeFolder,
  startServer,
  type ServerOptions,
  testRedis,
  type TestDatabase,
  type TestServer,
} from "@bowline/testing";
import { Redis } from "ioredis";
import pg from "pg";
import type { Endings } from "../harness/endings.ts";
import { cpuMs, treeCpuMs } from "../harness/processor-time.ts";
import type { LoadCalls } from "../load/main.ts";
import type { PeerCalls } from "../peers/main.ts";
import type { WireCalls } from "../wires/main.ts";
import type { WireOptions } from "../wires/servers.ts";
import { type Child, startChild } from "./child.ts";

/** Several servers and peers, each with the pool that it has by default. */
const maxConnections = 300;
/**
 * What docs/operations/sizing.md asks for, in the place of settings for a developer's idle machine. Those write each page
 * anew after every 256 MB, which is a matter of seconds here: checkpoints would be measured, and whoever writes more
 * tables would pay for them.
 */
const serverSettings = {
  shared_buffers: "1GB",
  effective_cache_size: "4GB",
  maintenance_work_mem: "256MB",
  checkpoint_timeout: "15min",
  max_wal_size: "8GB",
  min_wal_size: "1GB",
};
/** What Bowline has by default. */
const serverConnections = 20;

export interface Stand {
  postgres: EmbeddedPostgres;
  redis: { url: string; version: string; stop(): Promise<void>; start(): Promise<void>; cpuMs(): Promise<number> };
  folder: string;
  endings: Endings;
  /** A new database. */
  database(name: string): Promise<TestDatabase>;
  /** A Bowline with the defaults of the product, on that database. */
  server(options: Pick<ServerOptions, "database" | "beside" | "flags" | "env" | "dataDir">): Promise<TestServer>;
  load(): Child<LoadCalls>;
  peer(options: { queue: string; database?: string }): Promise<{ child: Child<PeerCalls>; url: string }>;
  /** A server that only answers agents. */
  wire(
    options: { wire: string } & WireOptions,
    nodeOptions?: readonly string[],
  ): Promise<{ child: Child<WireCalls>; url: string }>;
  /** CPU time of PostgreSQL so far, ms. */
  postgresCpuMs(): Promise<number>;
  /** A copy of a folder, to be another server's. */
  copy(folder: string): Promise<string>;
}

/** Written when the process ends. */
const profiled = (folder: string): string[] => ["--cpu-prof", `--cpu-prof-dir=${resolve(folder)}`];

/** A name that PostgreSQL takes as it is. */
export const asDatabase = (name: string): string => `bench_${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "_")}`;

export async function openStand(
  endings: Endings,
  { commitTimes = false, profile }: { commitTimes?: boolean; profile?: string | undefined } = {},
): Promise<Stand> {
  const folder = await mkdtemp(join(realpathSync(tmpdir()), "bowline-bench-"));
  endings.add(() => removeFolder(folder));
  const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
  const settings = { ...serverSettings, ...(commitTimes ? { track_commit_timestamp: "on" } : {}) };
  const postgres = await runEmbeddedPostgres({ dataDir: join(folder, "postgres"), log, maxConnections, settings });
  endings.add(() => postgres.stop());
  const redis = await openRedis(join(folder, "redis.sock"), folder);
  const addressOf = (name: string): DatabaseAddress => ({ ...postgres.connection, database: name });

  const createDatabase = (name: string): Promise<void> => ask(postgres.connection, `CREATE DATABASE ${name}`);
  const urlOf = (name: string): string => {
    const { host, port, user } = postgres.connection;
    return `postgres://${user}@localhost:${port}/${name}?host=${encodeURIComponent(host)}`;
  };
  return {
    ...{ postgres, redis, folder, endings },
    async database(name) {
      await createDatabase(name);
      const address = addressOf(name);
      const open: TestDatabase["open"] = (more = {}) => {
        const opened = openDatabase({ address, applicationName: "bench", statementTimeoutMs: 600_000, ...more });
        endings.add(opened.end);
        return opened;
      };
      const { db, end } = open();
      return { db, name, address, url: urlOf(name), open, end };
    },
    async server(options) {
      const dataDir = options.dataDir ?? (await mkdtemp(join(folder, "server-")));
      const server = await startServer({
        ...options,
        dataDir,
        env: profile === undefined ? (options.env ?? {}) : { NODE_OPTIONS: profiled(profile).join(" ") },
        flags: ["--max-connections", String(serverConnections), ...(options.flags ?? [])],
      });
      return server;
    },
    load() {
      const child = startChild<LoadCalls>("load/main.ts");
      endings.add(() => child.end());
      return child;
    },
    async peer({ queue, database }) {
      const name = `${asDatabase(queue)}.cpuprofile`;
      const child = startChild<PeerCalls>("peers/main.ts", {
        nodeOptions: profile === undefined ? [] : [...profiled(profile), `--cpu-prof-name=${name}`],
      });
      endings.add(() => child.end());
      if (database !== undefined) await createDatabase(database);
      const url = await child.call("start", {
        queue,
        databaseUrl: database === undefined ? "" : urlOf(database),
        redisSocket: redis.url,
      });
      return { child, url };
    },
    async wire(options, nodeOptions = []) {
      const child = startChild<WireCalls>("wires/main.ts", { nodeOptions });
      endings.add(() => child.end());
      return { child, url: await child.call("start", options) };
    },
    async copy(from) {
      const to = await mkdtemp(join(folder, "server-"));
      await cp(from, to, { recursive: true });
      return to;
    },
    postgresCpuMs: () => treeCpuMs(postgres.pid()),
  };
}

async function ask(connection: pg.ClientConfig, text: string): Promise<void> {
  const client = new pg.Client(connection);
  client.on("error", () => undefined); // the statement tells
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

/**
 * Redis as BullMQ's documentation asks for it in production: appended to a file, synchronised each second, and nothing
 * is evicted (https://docs.bullmq.io/guide/going-to-production).
 */
async function openRedis(socket: string, folder: string): Promise<Stand["redis"]> {
  const flags = ["--dir", folder, "--appendonly", "yes", "--appendfsync", "everysec"];
  let running = await testRedis({ socket, flags });
  const client = new Redis(socket, { lazyConnect: true, maxRetriesPerRequest: 1 });
  client.on("error", () => undefined); // the call under way tells
  await client.connect();
  const version = /redis_version:(\S+)/.exec(await client.info("server"))?.[1] ?? "unknown";
  client.disconnect();
  return {
    url: socket,
    version,
    stop: async () => void (await running.process?.end()),
    cpuMs: async () => (running.process === undefined ? 0 : cpuMs(running.process.pid).catch(() => 0)), // 0 while it is stopped
    async start() {
      running = await testRedis({ socket, flags });
    },
  };
}
