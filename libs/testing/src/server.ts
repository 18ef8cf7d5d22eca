/**
 * A real control plane as a process of its own, on a database of the test's:
 *
 *     const server = await startServer();
 *     const clusters = server.client(ClusterService);
 *     const agent = await server.scriptedAgent({ cluster: "local" });
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
import { testDatabase, type TestDatabase } from "./postgres.ts";
import { type ProcessEnd, type RunningProcess, startProcess } from "./processes.ts";
import { enrolScriptedAgent, type EnrolOptions, type ScriptedAgent } from "./scripted-agent.ts";

const program = fileURLToPath(new URL("../../../services/control-plane/src/main.ts", import.meta.url));
/** A cold start with a migration check on a busy two-core machine. */
const listeningWithinMs = 45_000;

/** Of the output of a server that died: enough for its last words and a stack. */
const diedOutputCharacters = 4_000;

export interface ServerOptions {
  /** Default: a new one. Give the one of an older server to start another on the same data. */
  database?: TestDatabase;
  /** Default: a new folder. An older server's has its admin token and encryption key. */
  dataDir?: string;
  /** Default: any free one. */
  port?: number;
  /** More flags, e.g. `["--heartbeat-interval-ms", "200"]`. */
  flags?: readonly string[];
}

export interface TestServer {
  url: string;
  /** Text of the bootstrap administrator's token. */
  adminToken: string;
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
}

export async function startServer(options: ServerOptions = {}): Promise<TestServer> {
  const database = options.database ?? (await testDatabase());
  const dataDir = options.dataDir ?? temporaryFolder();
  const port = String(options.port ?? 0);
  const running = startProcess({
    command: [
      "node",
      program,
      "start",
      ...["--data-dir", dataDir, "--port", port, "--max-connections", "8"],
      ...["--rate-limit-principal", "0", "--rate-limit-address", "0"], // a test calls faster than people do
      ...["--log-format", "json", ...(options.flags ?? [])],
    ],
    env: { BOWLINE_DATABASE_URL: database.url },
  });
  const line = await running.untilLine('"msg":"listening"', { withinMs: listeningWithinMs });
  const { url } = JSON.parse(line) as { url: string };
  const adminToken = readFileSync(join(dataDir, "admin-token"), "utf8").trim();

  const connection = new Http2SessionManager(url);
  let asked = false;
  let died: string | undefined;
  void running.ended.then(({ code, signal }) => {
    if (!asked)
      died = `the server ended by itself (${signal ?? code}):\n${running.output().slice(-diedOutputCharacters)}`;
  });
  atEnd(() => {
    asked = true;
    connection.abort();
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
  };
}
