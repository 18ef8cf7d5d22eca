/**
 * `npm start`: everything in order, then waiting, then everything in reverse.
 *
 * R1: whatever ends this process, nothing of it runs 10 s later: children have
 *     lifelines (child.ts), and an orderly stop has a bound for each stage.
 * R2: if the server dies, all ends and the reason is told.
 */
import { rm } from "node:fs/promises";
import { relative, join } from "node:path";
import { startStages, systemClock } from "@bowline/kernel";
import type { Stage } from "@bowline/kernel";
import { startAgent } from "./agent.ts";
import { errorText, openApi } from "./api.ts";
import type { Api } from "./api.ts";
import { startBackend } from "./backend.ts";
import { checkBeforeStart } from "./checks.ts";
import { endText } from "./child.ts";
import { root } from "./config.ts";
import type { Options } from "./config.ts";
import { applyProduct, ensureCluster, ensureGateway, ensurePublished, paths, untilAnswers } from "./example.ts";
import { StartFailure } from "./failure.ts";
import { writeWhole } from "./remembered.ts";
import type { Screen } from "./screen.ts";
import { startServer, tail } from "./server.ts";
import packageJson from "../package.json" with { type: "json" };

/** R1: together below 10 s. The agent stops its workloads first. */
const graceMs = { agent: 5_000, backend: 1_000, server: 3_000 } as const;
/** Beyond the grace a child is killed; that takes no time worth naming. */
const killMs = 300;

/** Runs until `stop` aborts or something fails. Returns the exit code. */
export async function run(options: Options, screen: Screen, stop: AbortSignal): Promise<number> {
  const broken = new AbortController();
  const signal = AbortSignal.any([stop, broken.signal]);
  let stopAll: Awaited<ReturnType<typeof startStages>> | undefined;
  try {
    screen.line();
    screen.line(
      `Bowline ${packageJson.version}   Node ${process.versions.node.replace(/\.\d+$/, "")}   data in ${options.dataDirShown}\n`,
    );
    await checkBeforeStart(options);
    stopAll = await startStages(stages(options, screen, signal, broken), { signal });
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    if (!stop.aborted) throw broken.signal.reason;
    screen.line("\nStopping …");
    return 0;
  } catch (error) {
    if (stop.aborted) {
      screen.line("\nStopped.");
      return 0;
    }
    screen.failed(asFailure(broken.signal.aborted ? broken.signal.reason : error));
    return 1;
  } finally {
    for (const end of (await stopAll?.()) ?? []) {
      if (end.outcome !== "stopped") screen.warn(end.name, `did not stop in order (${end.outcome})`);
    }
  }
}

/** What later stages take from earlier ones. */
type Made = {
  api: Api;
  adminToken: string;
  adminTokenFile: string;
  clusterId: string;
  agentId: string;
  backendUrl: string;
};

function stages(options: Options, screen: Screen, signal: AbortSignal, broken: AbortController): Stage[] {
  const made: Partial<Made> = {};
  const from = systemClock.monotonicMs();

  return [
    stage("server", graceMs.server, async () => {
      const server = await startServer(options, signal);
      let stopping = false;
      void server.child.ended.then((end) => {
        if (stopping) return;
        broken.abort(
          new StartFailure("server", `the server ${endText(end)}; everything is stopped`, tail(server.child)),
        ); // R2
      });
      await rm(join(options.dataDir, "dev.json"), { force: true }); // of the last run
      if (server.database !== undefined) screen.done("database", server.database.text, server.database.tookMs);
      screen.done("server", `${server.url}   REST, gRPC, Connect`, server.tookMs);
      made.api = openApi(server.url, server.adminToken, signal);
      made.adminToken = server.adminToken;
      made.adminTokenFile = server.adminTokenFile;
      return () => {
        stopping = true;
        return server.child.stop(graceMs.server);
      };
    }),
    stage("backend", graceMs.backend, async () => {
      const backend = await startBackend(options.dataDir, options.port === 0, screen, signal);
      made.backendUrl = backend.url;
      return () => backend.stop(graceMs.backend);
    }),
    stage("agent", graceMs.agent, async () => {
      const api = given(made.api);
      const { installationId } = await api.auth.getMe({});
      const since = systemClock.monotonicMs();
      const { cluster, made: isNew } = await ensureCluster(api);
      screen.done("cluster", `${cluster.name}${isNew ? ", new" : ""}`, systemClock.monotonicMs() - since);
      made.clusterId = cluster.id;
      const agentFrom = systemClock.monotonicMs();
      const place = { dataDir: options.dataDir, clusterId: cluster.id, installationId };
      const running = await startAgent(api, screen, place, signal);
      screen.done(
        "agent",
        `${running.agent.name}, ${running.enrolled ? "enrolled" : "known"}, online`,
        systemClock.monotonicMs() - agentFrom,
      );
      made.agentId = running.agent.id;
      return () => running.stop(graceMs.agent);
    }),
    stage("example", 0, async () => {
      await startExample(options, screen, made as Made, signal, from);
      return async () => {};
    }),
  ];
}

async function startExample(
  options: Options,
  screen: Screen,
  made: Made,
  signal: AbortSignal,
  from: number,
): Promise<void> {
  const { api } = made;
  const gateway = await ensureGateway(api, options.gatewayPort);
  const applyFrom = systemClock.monotonicMs();
  const { product, revision } = await applyProduct(api, made.backendUrl);
  if (product === undefined || revision === undefined) throw new StartFailure("product", "the server made no revision");
  screen.done(
    "product",
    `${product.name}, revision ${revision.number}, ${paths.length} routes`,
    systemClock.monotonicMs() - applyFrom,
  );

  const publishFrom = systemClock.monotonicMs();
  const wanted = {
    product: product.name,
    clusterId: made.clusterId,
    gatewayId: gateway.id,
    revision,
    again: gateway.changed,
  };
  const { publish, made: isNew } = await ensurePublished(api, wanted, signal);
  const gatewayUrl = await untilAnswers(api, publish.id, signal);
  screen.done(
    "publish",
    `${product.name} to local: LIVE${isNew ? "" : " (as before)"}`,
    systemClock.monotonicMs() - publishFrom,
  );

  await writeWhole(join(options.dataDir, "dev.json"), {
    url: api.url,
    adminToken: made.adminToken,
    clusterId: made.clusterId,
    agentId: made.agentId,
    productPublishId: publish.id,
    gatewayUrl,
  });
  tellHow(screen, made, gatewayUrl, systemClock.monotonicMs() - from);
}

function tellHow(screen: Screen, made: Made, gatewayUrl: string, tookMs: number): void {
  screen.line(`\nReady in ${(tookMs / 1_000).toFixed(1)} s. Try it:`);
  for (const path of paths) screen.line(`  curl ${gatewayUrl}${path}`);
  const inside = relative(root, made.adminTokenFile);
  const tokenFile = inside.startsWith("..") ? made.adminTokenFile : inside;
  screen.line("\nLook inside:");
  screen.line(`  export BOWLINE_URL=${made.api.url} BOWLINE_TOKEN_FILE=${quoted(tokenFile)}`);
  screen.line("  npm run -s bowline -- status");
  screen.line("\nCtrl-C stops everything. The data stays.\n");
}

function quoted(path: string): string {
  return /^[\w./@+:-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function stage(name: string, stopGraceMs: number, start: Stage["start"]): Stage {
  return { name, stopWithinMs: stopGraceMs + killMs, start };
}

function given<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("a stage before this one did not start");
  return value;
}

function asFailure(error: unknown): StartFailure {
  if (error instanceof StartFailure) return error;
  return new StartFailure(
    "start",
    errorText(error),
    error instanceof Error && error.stack !== undefined ? error.stack.split("\n").slice(1, 4) : [],
  );
}
