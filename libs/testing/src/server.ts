/**
 * A real control plane as a process of its own, on a database of the test's:
 *
 *     const server = await startServer();
 *     const clusters = server.client(ClusterService);
 *     const agent = await server.scriptedAgent({ cluster: "local" });
 *
 * Several on one database: `startServer({ beside: server })`, or
 * `const [a, b, c] = await startReplicas(3, { flags })`. Each is a replica with
 * a port, data folder and lease of its own, and the key and the admin of the
 * first. `databaseUrl` leads one of them through a proxy (tcp-proxy.ts).
 *
 * `server.operator` has the steps that most tests begin with. It ends with the
 * test (or the file) that started it.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { atEnd } from "./endings.ts";
import { temporaryFolder } from "./folders.ts";
import { createOperator, type Operator } from "./operator.ts";
import { freePort } from "./ports.ts";
import { testDatabase, type TestDatabase } from "./postgres.ts";
import { isPaused, type ProcessEnd, type RunningProcess, startProcess } from "./processes.ts";
import { enrolScriptedAgent, type EnrolOptions, type ScriptedAgent } from "./scripted-agent.ts";
import { until } from "./until.ts";

const currentProgram = fileURLToPath(new URL("../../../services/control-plane/src/main.ts", import.meta.url));
/** A cold start with a migration check on a busy two-core machine. */
const listeningWithinMs = 45_000;

/** Of the output of a server that died: enough for its last words and a stack. */
const diedOutputCharacters = 4_000;

export interface ServerOptions {
  /** Default: a new one. Give the one of an older server to start another on the same data. */
  database?: TestDatabase;
  /** Default: a new folder. An older server's has its admin token and encryption key. */
  dataDir?: string;
  /** A server that runs: this one becomes another replica on its database, with its encryption key. */
  beside?: Pick<TestServer, "database" | "encryptionKeyFile" | "adminToken">;
  /** How the server reaches the database. Default: directly. */
  databaseUrl?: string;
  /** Default: a free one that nobody else gets while the server starts again. */
  port?: number;
  /** More flags, e.g. `["--heartbeat-interval-ms", "200"]`. */
  flags?: readonly string[];
  /** More variables, e.g. `{ BOWLINE_FAULT: "claim.after-commit" }`. */
  env?: Record<string, string>;
  /** Default: the server of this checkout. Path of another version's `main.ts`. */
  program?: string;
}

export interface TestServer {
  url: string;
  /** Text of the bootstrap administrator's token. */
  adminToken: string;
  /** Its id in sessions and leases, as `agents` show it. */
  replicaId: string;
  encryptionKeyFile: string;
  dataDir: string;
  database: TestDatabase;
  process: RunningProcess;
  /** A client as the administrator, or with another token; "" sends none. */
  client<Service extends DescService>(service: Service, token?: string): Client<Service>;
  operator: Operator;
  /** Enrols a scripted agent in the cluster of that name, which is made where there is none, and connects it. */
  scriptedAgent(options: { cluster: string } & Omit<EnrolOptions, "token" | "url">): Promise<ScriptedAgent>;
  /** SIGTERM, and waits for the end. */
  stop(): Promise<ProcessEnd>;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<ProcessEnd>;
  /** SIGSTOP, and waits until it stands still. Its sockets stay open. */
  pause(): Promise<void>;
  /** SIGCONT. */
  resume(): void;
  /** The same place again after it has ended: port, folder, database, flags. Other options win. */
  again(options?: Pick<ServerOptions, "databaseUrl" | "env" | "flags" | "program">): Promise<TestServer>;
}

export async function startServer(options: ServerOptions = {}): Promise<TestServer> {
  const { beside } = options;
  const database = options.database ?? beside?.database ?? (await testDatabase());
  const dataDir = options.dataDir ?? temporaryFolder();
  const encryptionKeyFile = beside?.encryptionKeyFile ?? join(dataDir, "encryption-key");
  const running = startProcess({
    command: [
      "node",
      options.program ?? currentProgram,
      "start",
      ...["--data-dir", dataDir, "--port", String(options.port ?? (await freePort())), "--max-connections", "8"],
      ...["--encryption-key-file", encryptionKeyFile],
      ...["--rate-limit-principal", "0", "--rate-limit-address", "0"], // a test calls faster than people do
      ...["--drain-spread-ms", "0"], // scripted agents don't leave by themselves
      ...["--log-format", "json", ...(options.flags ?? [])],
    ],
    env: { BOWLINE_DATABASE_URL: options.databaseUrl ?? database.url, ...options.env },
  });
  const line = await running.untilLine('"msg":"listening"', { withinMs: listeningWithinMs });
  const { url, replicaId } = JSON.parse(line) as { url: string; replicaId: string };
  const adminToken = beside?.adminToken ?? readFileSync(join(dataDir, "admin-token"), "utf8").trim();

  const connection = new Http2SessionManager(url);
  let asked = false;
  let died: string | undefined;
  void running.ended.then(({ code, signal }) => {
    const armed = (options.env?.["BOWLINE_FAULT"] ?? "") !== ""; // it was made to end
    if (!asked && !armed)
      died = `the server ended by itself (${signal ?? code}):\n${running.output().slice(-diedOutputCharacters)}`;
  });
  atEnd(() => {
    asked = true;
    connection.abort();
    running.kill("SIGCONT"); // a paused one would not hear that it is to end
    if (died !== undefined) throw new Error(died);
  });
  const client: TestServer["client"] = (service, token = adminToken) => {
    const authorize: Interceptor = (next) => (request) => {
      if (token !== "") request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    const transport = createConnectTransport({
      baseUrl: url,
      httpVersion: "2",
      sessionManager: connection,
      interceptors: [authorize],
    });
    return createClient(service, transport);
  };
  const operator = createOperator(client);
  return {
    url,
    adminToken,
    replicaId,
    encryptionKeyFile,
    dataDir,
    database,
    process: running,
    client,
    operator,
    async scriptedAgent({ cluster, ...more }) {
      const { id } = await operator.cluster(cluster);
      const agent = await enrolScriptedAgent({ url, token: await operator.registrationToken(id), ...more });
      await agent.connect();
      return agent;
    },
    async stop() {
      asked = true;
      connection.abort();
      running.kill("SIGTERM");
      return running.ended;
    },
    async kill() {
      asked = true;
      running.kill("SIGKILL");
      connection.abort();
      return running.ended;
    },
    async pause() {
      running.kill("SIGSTOP");
      await until(() => isPaused(running.pid), { what: "the server paused" });
    },
    resume: () => void running.kill("SIGCONT"),
    again: (more = {}) =>
      startServer({
        ...options,
        ...{ database, dataDir, port: Number(new URL(url).port) },
        ...(beside === undefined ? {} : { beside }),
        ...more,
      }),
  };
}

type Times<Count extends number, Sofar extends TestServer[] = []> = Sofar["length"] extends Count
  ? Sofar
  : Times<Count, [...Sofar, TestServer]>;

/** Starts `count` replicas on one database; the first makes the installation. */
export async function startReplicas<Count extends 1 | 2 | 3 | 4 | 5>(
  count: Count,
  options: Omit<ServerOptions, "beside"> = {},
): Promise<Times<Count>> {
  const first = await startServer(options);
  const others = Array.from({ length: count - 1 }, () => startServer({ ...options, beside: first }));
  return [first, ...(await Promise.all(others))] as Times<Count>;
}
