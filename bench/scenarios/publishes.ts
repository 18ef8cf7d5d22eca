/**
 * What a publish costs the control plane: scripted agents answer at once, so
 * that the server and its PostgreSQL are what is measured. With `--against
 * FOLDER` a second checkout's server does the same work, in turns, and the
 * ratio of the two is told.
 *
 * CPU time is the figure to compare: on a machine that others use too, it
 * varies far less than rates do.
 */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { Http2SessionManager, createConnectTransport } from "@connectrpc/connect-node";
import { createClient, type Interceptor } from "@connectrpc/connect";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import {
  ProductManifestSchema,
  ProductPublish_State,
  ProductPublishService,
  ProductService,
} from "@bowline/contract/products";
import { fromJson } from "@bufbuild/protobuf";
import { enrolScriptedAgent, type ScriptedAgent, startProcess } from "@bowline/testing";

/** The work of one round: so many products, each published so often, at `places` clusters with one agent each. */
const shapes = [
  { name: "16 products, one agent", products: 16, places: 1, rounds: 12 },
  { name: "16 products, 8 agents", products: 16, places: 8, rounds: 12 },
];
const startWithinMs = 60_000;
const liveWithinMs = 120_000;
/** The kernel counts CPU time in hundredths of a second. */
const tickMs = 10;

interface Round {
  publishesPerSecond: number;
  /** Of CreateProductPublish. */
  callMedianMs: number;
  callP95Ms: number;
  serverCpuMs: number;
  postgresCpuMs: number;
}

export async function publishes({
  json,
  against,
  turns,
}: {
  json: boolean;
  against: string | undefined;
  turns: number;
}) {
  const checkouts = [process.cwd(), ...(against === undefined ? [] : [resolve(against)])];
  const results = shapes.map((shape) => ({ shape: shape.name, rounds: checkouts.map((): Round[] => []) }));
  for (let turn = 0; turn < turns; turn += 1) {
    // Who goes first alternates, so that neither always finds the machine warm.
    const order = checkouts.map((_, index) => (index + turn) % checkouts.length);
    for (const index of order) {
      for (const [at, round] of (await measured(checkouts[index] ?? "")).entries())
        results[at]?.rounds[index]?.push(round);
    }
  }
  const machine = `${cpus().length} × ${cpus()[0]?.model ?? "?"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;
  const facts = { machine, turns, checkouts, results: results.map(summary) };
  process.stdout.write(json ? `${JSON.stringify(facts)}\n` : `${JSON.stringify(facts, null, 2)}\n`);
}

/** A new server of this checkout with an embedded PostgreSQL; each shape once. */
async function measured(checkout: string): Promise<Round[]> {
  const dataDir = await mkdtemp(join(tmpdir(), "bowline-bench-"));
  const server = startProcess({
    command: [
      ...["node", join(checkout, "services/control-plane/src/main.ts"), "start", "--port", "0", "--data-dir", dataDir],
      ...["--rate-limit-principal", "0", "--rate-limit-address", "0", "--log-format", "json"],
    ],
    cwd: checkout,
  });
  try {
    const line = await server.untilLine('"msg":"listening"', { withinMs: startWithinMs });
    const { url } = JSON.parse(line) as { url: string };
    const token = (await readFile(join(dataDir, "admin-token"), "utf8")).trim();
    const rounds: Round[] = [];
    for (const [index, shape] of shapes.entries())
      rounds.push(await round({ url, token, pid: server.pid, prefix: `s${index}` }, shape));
    return rounds;
  } finally {
    await server.end();
    await rm(dataDir, { recursive: true, force: true });
  }
}

async function round(
  at: { url: string; token: string; pid: number; prefix: string },
  shape: (typeof shapes)[number],
): Promise<Round> {
  const connection = new Http2SessionManager(at.url);
  const authorise: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${at.token}`);
    return next(request);
  };
  const transport = createConnectTransport({
    ...{ baseUrl: at.url, httpVersion: "2", sessionManager: connection, interceptors: [authorise] },
  });
  const clients = {
    commands: createClient(CommandService, transport),
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
  };
  const agents: ScriptedAgent[] = [];
  try {
    for (let place = 0; place < shape.places; place += 1) {
      const cluster = await createClient(ClusterService, transport).createCluster({
        cluster: { name: `${at.prefix}-${place}`, runtime: "local", policy: { allowPrivateBackends: true } },
      });
      const { token } = await createClient(RegistrationTokenService, transport).createRegistrationToken({
        clusterId: cluster.id,
      });
      const agent = await enrolScriptedAgent({ url: at.url, token });
      await agent.connect();
      agents.push(agent);
      void obey(agent);
    }
    const names = Array.from({ length: shape.products }, (_, index) => `${at.prefix}-${index}`);
    for (const name of names) await clients.products.applyProduct({ manifest: manifestOf(name) });
    // The data planes, and each product once: what follows is the steady state.
    for (const [index, name] of names.entries()) await live(await publish(name, index));
    const calls: number[] = [];
    const before = { server: await cpuMs(at.pid), postgres: await postgresMs(at.pid) };
    const startedAt = performance.now();
    const made = await Promise.all(
      names.map(async (name, index) => {
        const ids: string[] = [];
        for (let count = 0; count < shape.rounds; count += 1) {
          const calledAt = performance.now();
          const id = await publish(name, index);
          calls.push(performance.now() - calledAt);
          ids.push(id);
          await live(id);
        }
        return ids;
      }),
    );
    const seconds = (performance.now() - startedAt) / 1000;
    const after = { server: await cpuMs(at.pid), postgres: await postgresMs(at.pid) };
    const ids = made.flat();
    for (const id of ids) {
      const { commands } = await clients.commands.listCommands({ productPublishId: id });
      if (commands.length !== 1 || commands[0]?.attempt !== 1) throw new Error(`${id}: the run is void`);
    }
    const sorted = calls.toSorted((a, b) => a - b);
    return {
      publishesPerSecond: ids.length / seconds,
      callMedianMs: sorted[Math.floor(sorted.length / 2)] ?? Number.NaN,
      callP95Ms: sorted[Math.floor(sorted.length * 0.95)] ?? Number.NaN,
      serverCpuMs: (after.server - before.server) / ids.length,
      postgresCpuMs: (after.postgres - before.postgres) / ids.length,
    };
  } finally {
    for (const agent of agents) agent.drop();
    connection.abort();
  }

  async function publish(name: string, index: number): Promise<string> {
    const clusterId = `${at.prefix}-${index % shape.places}`;
    return (await clients.publishes.createProductPublish({ productId: name, clusterId })).id;
  }

  async function live(id: string): Promise<void> {
    const signal = AbortSignal.timeout(liveWithinMs);
    for await (const { productPublish } of clients.publishes.watchProductPublish({ id }, { signal })) {
      if (productPublish?.state === ProductPublish_State.LIVE) return;
      if (productPublish?.state === ProductPublish_State.FAILED) throw new Error(`${id}: ${productPublish.reason}`);
    }
  }
}

/** Takes every command and reports it done, until the session ends. */
async function obey(agent: ScriptedAgent): Promise<void> {
  try {
    for (;;) {
      const command = await agent.nextCommand({ withinMs: liveWithinMs });
      void agent
        .receive(command)
        .then(() => agent.report(command, { succeeded: true }))
        .catch(() => undefined); // The round is over, or its checks tell.
    }
  } catch {
    // The session ended with the round.
  }
}

function manifestOf(name: string) {
  const redirect = { redirect: { statusCode: 302, hostname: "example.com" } };
  const routes = [{ name: "r", matches: [{ path: { type: "EXACT", value: `/${name}` } }], filters: [redirect] }];
  return fromJson(ProductManifestSchema, { name, apiServices: [{ name, routes }] });
}

async function cpuMs(pid: number, ended = false): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [user = "0", system = "0", endedUser = "0", endedSystem = "0"] = fields.slice(11, 15);
  return (Number(user) + Number(system) + (ended ? Number(endedUser) + Number(endedSystem) : 0)) * tickMs;
}

/** The postmaster below the server, its backends, and those that have ended. */
async function postgresMs(server: number): Promise<number> {
  const parents = new Map<number, number>();
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const text = await readFile(`/proc/${entry}/stat`, "utf8").catch(() => ""); // ended while we looked
    parents.set(Number(entry), Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1] ?? 0));
  }
  const below = (pid: number): number[] =>
    [...parents].flatMap(([child, parent]) => (parent === pid ? [child, ...below(child)] : []));
  let sum = 0;
  for (const pid of below(server)) sum += await cpuMs(pid, true).catch(() => 0); // ended while we looked
  return sum;
}

function summary({ shape, rounds }: { shape: string; rounds: Round[][] }) {
  const keys = ["publishesPerSecond", "callMedianMs", "callP95Ms", "serverCpuMs", "postgresCpuMs"] as const;
  const [ours = [], theirs = []] = rounds;
  return {
    shape,
    figures: Object.fromEntries(
      keys.map((key) => {
        const [here, there] = [ours, theirs].map((all) => spread(all.map((one) => one[key])));
        const ratio = spread(theirs.map((one, turn) => one[key] / (ours[turn]?.[key] ?? Number.NaN)));
        return [key, theirs.length === 0 ? here : { here, there, thereByHere: ratio }];
      }),
    ),
  };
}

function spread(values: readonly number[]) {
  const sorted = values.toSorted((a, b) => a - b);
  const round1 = (value: number | undefined): number => Math.round((value ?? Number.NaN) * 10) / 10;
  return { median: round1(sorted[Math.floor(sorted.length / 2)]), min: round1(sorted[0]), max: round1(sorted.at(-1)) };
}
