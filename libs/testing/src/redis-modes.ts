/**
 * Redis as large installations run it, from the same binary:
 *
 *     const { url, master, sentinels } = await startRedisSentinel();   // a master, a replica, three sentinels
 *     const { url, nodes } = await startRedisCluster();                // three nodes, all slots
 */
import { writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { temporaryFolder } from "./folders.ts";
import { freePort } from "./ports.ts";
import { type RunningProcess, startProcess } from "./processes.ts";
import { findRedisServer } from "./redis-server.ts";
import { until } from "./until.ts";

export interface RedisNode {
  port: number;
  process: RunningProcess;
  /** Sends one command as plain text; the whole answer, as Redis writes it. */
  ask(command: string): Promise<string>;
  /** The same node again, after it has ended. */
  again(): Promise<RedisNode>;
}

/** A few of their own turns, each some seconds apart, on a busy machine. */
const agreeWithinMs = 60_000;

/** A master without anything on disk, its replica, and three sentinels that agree by two within about 2 s. */
export async function startRedisSentinel(): Promise<{ url: string; master: RedisNode; replica: RedisNode }> {
  const quick = ["--repl-diskless-sync-delay", "0"];
  const master = await startNode(quick);
  const replica = await startNode([...quick, "--replicaof", "127.0.0.1", String(master.port)]);
  await until(async () => (await replica.ask("INFO replication")).includes("master_link_status:up"), {
    withinMs: agreeWithinMs,
    what: "the replica has its master",
  });
  const sentinels = await Promise.all([1, 2, 3].map(() => startSentinel(master.port)));
  for (const sentinel of sentinels) {
    await until(
      async () => {
        const known = await sentinel.ask("SENTINEL MASTER mymaster");
        return /num-slaves\r\n\$1\r\n1/.test(known) && /num-other-sentinels\r\n\$1\r\n2/.test(known);
      },
      { withinMs: agreeWithinMs, what: "the sentinels know of each other" },
    );
  }
  const hosts = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(",");
  return { url: `redis+sentinel://${hosts}/mymaster`, master, replica };
}

/** Three masters that share the slots; without one of them none takes a write. */
export async function startRedisCluster(): Promise<{ url: string; nodes: readonly RedisNode[] }> {
  const bus = [await freePort(), await freePort(), await freePort()];
  const nodes = await Promise.all(
    bus.map((port) =>
      startNode(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", String(port)]),
    ),
  );
  for (const [at, node] of nodes.entries())
    await node.ask(`CLUSTER ADDSLOTSRANGE ${Math.ceil((16_384 / 3) * at)} ${Math.ceil((16_384 / 3) * (at + 1)) - 1}`);
  await until(
    async () => {
      const infos = await Promise.all(nodes.map((node) => node.ask("CLUSTER INFO")));
      // One that does not answer within the timeout is forgotten, and has to be met again.
      for (const [at, node] of nodes.entries())
        if (at > 0 && infos[at]?.includes("cluster_known_nodes:1\r"))
          await node.ask(`CLUSTER MEET 127.0.0.1 ${nodes[0]?.port} ${bus[0]}`);
      return infos.every((info) => info.includes("cluster_state:ok") && info.includes("cluster_known_nodes:3"));
    },
    { withinMs: agreeWithinMs, what: "the nodes agree on the cluster" },
  );
  return { url: `redis+cluster://127.0.0.1:${nodes[0]?.port},127.0.0.1:${nodes[1]?.port}`, nodes };
}

async function startNode(options: readonly string[], port?: number, folder = temporaryFolder()): Promise<RedisNode> {
  const on = port ?? (await freePort());
  const settings = ["--port", String(on), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  return nodeOf(await startServer([...settings, ...options]), on, () => startNode(options, on, folder));
}

async function startSentinel(masterPort: number): Promise<RedisNode> {
  const port = await freePort();
  const file = join(temporaryFolder(), "sentinel.conf");
  const settings = [
    `port ${port}`,
    "bind 127.0.0.1",
    `sentinel monitor mymaster 127.0.0.1 ${masterPort} 2`,
    "sentinel down-after-milliseconds mymaster 1000",
    "sentinel failover-timeout mymaster 5000",
  ];
  writeFileSync(file, `${settings.join("\n")}\n`);
  return nodeOf(await startServer([file, "--sentinel"]), port, () => startSentinel(masterPort));
}

async function startServer(args: readonly string[]): Promise<RunningProcess> {
  const { program, env } = await findRedisServer();
  const running = startProcess({ command: [program, ...args], env });
  await running.untilLine(/ready to accept connections|Sentinel ID is/i);
  return running;
}

function nodeOf(process: RunningProcess, port: number, again: () => Promise<RedisNode>): RedisNode {
  return { port, process, ask: (command) => ask(port, command), again };
}

/** A PING follows the command; its answer ends the command's. (A sentinel knows no QUIT.) */
function ask(port: number, command: string): Promise<string> {
  const end = "+PONG\r\n";
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: "127.0.0.1", port }, () => socket.write(`${command}\r\nPING\r\n`));
    let answer = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      answer += text;
      if (answer.endsWith(end)) socket.end();
    });
    socket.on("error", reject);
    socket.on("close", () => resolve(answer.slice(0, -end.length)));
  });
}
