/** Two replicas, an agent on each that does what it is told, and publishes through the other one. */
import { expect } from "@jest/globals";
import { CommandService } from "@bowline/contract/commands";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { type ScriptedAgent, startReplicas, type TestServer, until } from "@bowline/testing";

export interface Dispatch {
  replicas: readonly [TestServer, TestServer];
  agents: readonly ScriptedAgent[];
  /** Publishes a new product through the replica that the agent is not on, to each; waits until all are LIVE. */
  publishAll(): Promise<void>;
  /** Waits until both replicas are ready and say so of Redis. */
  redisIs(state: "ok" | "degraded"): Promise<void>;
  /** Every command that there ever was succeeded at its first attempt. */
  nothingRepeated(): Promise<void>;
}

/** Publishing on a machine that is busy with failovers. */
const liveWithinMs = 60_000;

export async function startDispatch(redisUrl: string): Promise<Dispatch> {
  const replicas = await startReplicas(2, { flags: ["--redis-url", redisUrl] });
  const [a, b] = replicas;
  const agents = await Promise.all(
    [a, b].map((server, at) => server.scriptedAgent({ cluster: `place-${at}` }).then(working)),
  );
  let products = 0;
  return {
    replicas,
    agents,
    async publishAll() {
      products += 1;
      const made = await Promise.all(
        [b, a].map((server, at) => server.operator.publish(`p${products}-${at}`, { to: `place-${at}` })),
      );
      await Promise.all(
        made.map(({ id }) =>
          until(async () => (await a.operator.publishOf(id)).state === State.LIVE, {
            withinMs: liveWithinMs,
            what: "the publish is LIVE",
          }),
        ),
      );
    },
    async redisIs(state) {
      for (const { url } of replicas) {
        await until(
          async () => {
            const answer = await fetch(`${url}/ready`, { headers: { connection: "close" } });
            const said = [answer.status, ((await answer.json()) as { checks: { redis: string } }).checks.redis];
            return said[0] === 200 && said[1] === state;
          },
          { withinMs: liveWithinMs, what: `Redis is ${state}` },
        );
      }
    },
    async nothingRepeated() {
      const { commands } = await a.client(CommandService).listCommands({ pageSize: 1000 });
      expect(commands.length).toBeGreaterThan(products * 2);
      expect(commands.map(({ attempt }) => attempt)).toEqual(commands.map(() => 1));
    },
  };
}

/** Answers heartbeats' due and does every command, until its session ends. */
function working(agent: ScriptedAgent): ScriptedAgent {
  const session = agent.session();
  const heartbeat = setInterval(() => void agent.heartbeat().catch(() => undefined), 10_000); // its end tells
  void session.ended.then(() => clearInterval(heartbeat));
  void (async () => {
    const done = new Set<string>();
    for (;;) {
      const command = await session.nextCommand({ withinMs: 240_000 });
      const which = `${command.commandId} ${command.attempt}`;
      if (done.has(which)) continue; // pushed again before its receipt had come
      done.add(which);
      await session.receive(command);
      await session.report(command, { succeeded: true });
    }
  })().catch(() => undefined); // the test is over
  return agent;
}
