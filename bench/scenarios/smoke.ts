/**
 * The whole path once, measured: a server with its embedded PostgreSQL, a local
 * agent as a separate process, its data plane. The figures are of this machine
 * and this hour; they carry over to no other.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { CommandService } from "@bowline/contract/commands";
import { ProductPublish_State, ProductPublishService, ProductService } from "@bowline/contract/products";

/** Publishes whose time to LIVE is taken, one after the other. */
const publishes = 15;
/** Products that are published at once, and how often each. */
const products = 16;
const rounds = 6;
const startWithinMs = 120_000;
const settleMs = 3_000;
const liveWithinMs = 120_000;

interface Dev {
  url: string;
  adminToken: string;
  clusterId: string;
}

export async function smoke({ json }: { json: boolean }): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), "bowline-bench-"));
  const dev = spawn(process.execPath, ["services/dev/src/main.ts", "--port", "0", "--data-dir", dataDir], {
    stdio: ["pipe", "ignore", "inherit"],
  });
  try {
    const facts = await started(dataDir);
    await sleep(settleMs); // what a start leaves to do
    const { pid } = JSON.parse(await readFile(join(dataDir, "server.json"), "utf8")) as { pid: number };
    const memoryMb = (await residentKb(pid)) / 1024;
    const clients = connect(facts);
    const timesMs = await timesToLive(clients, facts.clusterId);
    const throughput = await commandsPerSecond(clients, facts.clusterId);
    print({ memoryMb, timesMs, ...throughput }, json);
  } finally {
    dev.kill("SIGTERM");
    await once(dev, "exit");
    await rm(dataDir, { recursive: true, force: true });
  }
}

async function started(dataDir: string): Promise<Dev> {
  const until = performance.now() + startWithinMs;
  while (performance.now() < until) {
    try {
      return JSON.parse(await readFile(join(dataDir, "dev.json"), "utf8")) as Dev;
    } catch {
      await sleep(100); // not written yet
    }
  }
  throw new Error(`npm start was not ready within ${startWithinMs / 1000} s; see ${dataDir}/server.log`);
}

async function residentKb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN);
}

interface Clients {
  products: Client<typeof ProductService>;
  publishes: Client<typeof ProductPublishService>;
  commands: Client<typeof CommandService>;
}

function connect({ url, adminToken }: Dev): Clients {
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion: "2",
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${adminToken}`);
        return next(request);
      },
    ],
  });
  return {
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
    commands: createClient(CommandService, transport),
  };
}

/** From the call to LIVE, as a watcher sees it. */
async function timesToLive(clients: Clients, clusterId: string): Promise<number[]> {
  const times: number[] = [];
  for (let n = 0; n < publishes; n += 1) {
    const startedAt = performance.now();
    const { id } = await clients.publishes.createProductPublish({ productId: "hello", clusterId });
    await live(clients, id);
    times.push(performance.now() - startedAt);
  }
  return times;
}

async function live(clients: Clients, id: string): Promise<void> {
  const signal = AbortSignal.timeout(liveWithinMs);
  for await (const { productPublish } of clients.publishes.watchProductPublish({ id }, { signal })) {
    if (productPublish?.state === ProductPublish_State.LIVE) return;
    if (productPublish?.state === ProductPublish_State.FAILED)
      throw new Error(`${id}: ${productPublish.reason} ${productPublish.message}`);
  }
  throw new Error(`${id}: the watch ended before it was LIVE`);
}

/** Many products at once: API call, commit, push, fetch, journal, data plane, result, commit. One result per command or it is void. */
async function commandsPerSecond(clients: Clients, clusterId: string): Promise<{ commands: number; seconds: number }> {
  const names = Array.from({ length: products }, (_, index) => `bench-${index}`);
  for (const name of names) {
    await clients.products.applyProduct({
      manifest: {
        name,
        apiServices: [
          {
            name,
            routes: [
              {
                name: "r",
                matches: [{ path: { type: 1, value: `/${name}` } }],
                filters: [{ kind: { case: "redirect", value: { statusCode: 302, hostname: "example.com" } } }],
              },
            ],
          },
        ],
      },
    });
  }
  const startedAt = performance.now();
  const ids = (
    await Promise.all(
      names.map(async (name) => {
        const made: string[] = [];
        for (let round = 0; round < rounds; round += 1) {
          const { id } = await clients.publishes.createProductPublish({ productId: name, clusterId });
          await live(clients, id);
          made.push(id);
        }
        return made;
      }),
    )
  ).flat();
  const seconds = (performance.now() - startedAt) / 1000;
  for (const id of ids) {
    const { commands } = await clients.commands.listCommands({ productPublishId: id });
    if (commands.length !== 1 || commands[0]?.attempt !== 1)
      throw new Error(`${id}: ${commands.length} commands, attempt ${commands[0]?.attempt}: the run is void`);
  }
  return { commands: ids.length, seconds };
}

function print(
  figures: { memoryMb: number; timesMs: number[]; commands: number; seconds: number },
  json: boolean,
): void {
  const sorted = figures.timesMs.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  const facts = {
    machine: `${cpus().length} × ${cpus()[0]?.model ?? "?"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`,
    idleControlPlaneMb: Math.round(figures.memoryMb),
    timeToLiveMs: {
      median: Math.round(at(0.5)),
      min: Math.round(at(0)),
      max: Math.round(at(1)),
      publishes: sorted.length,
    },
    commandsPerSecond: {
      value: Math.round((figures.commands / figures.seconds) * 10) / 10,
      commands: figures.commands,
      inFlight: products,
    },
  };
  if (json) {
    process.stdout.write(`${JSON.stringify(facts)}\n`);
    return;
  }
  process.stdout.write(
    [
      facts.machine,
      `idle control plane        ${facts.idleControlPlaneMb} MB resident (without PostgreSQL)`,
      `publish to LIVE           median ${facts.timeToLiveMs.median} ms (${facts.timeToLiveMs.min}–${facts.timeToLiveMs.max}, ${facts.timeToLiveMs.publishes} publishes)`,
      `whole path                ${facts.commandsPerSecond.value} commands/s (${facts.commandsPerSecond.commands} commands, ${facts.commandsPerSecond.inFlight} at a time, one agent)`,
      "",
    ].join("\n"),
  );
}
