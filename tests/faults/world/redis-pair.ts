/** Two replicas with a Redis between them, behind a proxy: what scenarios about Redis share. */
import {
  askRedis,
  isRunning,
  startReplicas,
  startTcpProxy,
  temporaryFolder,
  testRedis,
  type TcpProxy,
  type TestServer,
} from "@bowline/testing";
import { installWitness } from "./witness.ts";

export interface RedisPair {
  replicas: readonly [TestServer, TestServer];
  /** Between the replicas and Redis. */
  way: TcpProxy;
  /** One command, as text, past the proxy. */
  ask(command: string): Promise<string>;
  signal(name: NodeJS.Signals): void;
  /** SIGKILL; what it held is gone. */
  kill(): Promise<void>;
  /** An empty one in its place. It ends with the scenario that started it. */
  start(): Promise<void>;
  /** Starts one where none runs. */
  ensure(): Promise<void>;
  /** Whether both replicas are ready, and say so of Redis. */
  is(state: "ok" | "degraded"): Promise<boolean>;
}

export async function startRedisPair(): Promise<RedisPair> {
  const socket = `${temporaryFolder()}/redis.sock`;
  let redis = await testRedis({ socket });
  const way = await startTcpProxy({ path: socket });
  const replicas = await startReplicas(2, { flags: ["--redis-url", `redis://${way.host}:${way.port}`] });
  await installWitness(replicas[0].database.db);
  const start = async (): Promise<void> => {
    redis = await testRedis({ socket });
  };
  return {
    ...{ replicas, way, start },
    ask: (command) => askRedis(socket, command),
    signal: (name) => void redis.process?.kill(name),
    async kill() {
      redis.process?.kill("SIGKILL");
      await redis.process?.ended;
    },
    async ensure() {
      if (redis.process !== undefined && !isRunning(redis.process.pid)) await start();
    },
    async is(state) {
      const answers = await Promise.all(replicas.map(({ url }) => readiness(url)));
      return answers.every((answer) => answer === state);
    },
  };
}

async function readiness(url: string): Promise<string> {
  const answer = await fetch(`${url}/ready`, { headers: { connection: "close" } });
  const { checks } = (await answer.json()) as { checks: { redis: string } };
  return answer.ok ? checks.redis : `HTTP ${answer.status}`;
}
