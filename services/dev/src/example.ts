/** The example: its cluster, gateway, product and publish, made where they are not there yet. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { create, fromJson } from "@bufbuild/protobuf";
import type { JsonValue } from "@bufbuild/protobuf";
import { ClusterPolicySchema } from "@bowline/contract/clusters";
import type { Cluster } from "@bowline/contract/clusters";
import { ListenerSchema } from "@bowline/contract/deployments";
import { ProductManifestSchema, ProductPublish_State as State } from "@bowline/contract/products";
import type { ApplyProductResponse, ProductPublish, Revision } from "@bowline/contract/products";
import { systemClock } from "@bowline/kernel";
import { parse } from "yaml";
import { found, unlimited } from "./api.ts";
import type { Api } from "./api.ts";
import { root } from "./config.ts";
import { StartFailure } from "./failure.ts";
import { holderOf, holderText } from "./ports.ts";

const manifestFile = join(root, "examples/hello/product.yaml");
/** The backend's URL in the manifest, which stands for wherever it listens. */
const manifestBackend = "http://127.0.0.1:9101";
const clusterName = "local";
const gatewayName = "default";
/** A publish takes a second; four tries at a backend take longer. */
const liveWithinMs = 90_000;
/** After LIVE the data plane answers at once; after a restart its agent starts it first. */
const answersWithinMs = 45_000;
const lookEveryMs = 100;

/** Paths of the example, for the lines that are printed and for the check that they work. */
export const paths = ["/hello", "/hello/time"] as const;

export async function ensureCluster(api: Api): Promise<{ cluster: Cluster; made: boolean }> {
  const before = await found(api.clusters.getCluster({ id: clusterName }));
  if (before !== undefined) return { cluster: before, made: false };
  const policy = create(ClusterPolicySchema, { allowPrivateBackends: true });
  const cluster = await api.clusters.createCluster({
    cluster: { name: clusterName, runtime: "local", policy, displayName: "This machine" },
  });
  return { cluster, made: true };
}

/** The gateway at `port`. `changed`: what is published there has to be published again. */
export async function ensureGateway(api: Api, port: number): Promise<{ id: string; changed: boolean }> {
  const listeners = [create(ListenerSchema, { name: "http", protocol: "HTTP", port })];
  const before = await found(api.gateways.getGateway({ id: gatewayName }));
  if (before === undefined) {
    const made = await api.gateways.createGateway({ gateway: { name: gatewayName, listeners, isDefault: true } });
    return { id: made.id, changed: false };
  }
  const same = before.listeners.length === 1 && before.listeners[0]?.port === port;
  if (same) return { id: before.id, changed: false };
  const { id, etag } = before;
  await api.gateways.updateGateway({ gateway: { id, etag, listeners }, updateMask: { paths: ["listeners"] } });
  return { id, changed: true };
}

/** Applies the example's manifest with the backend where it listens. */
export async function applyProduct(api: Api, backendUrl: string): Promise<ApplyProductResponse> {
  const text = (await readFile(manifestFile, "utf8")).replaceAll(manifestBackend, backendUrl);
  const { apiVersion: _, kind: __, ...fields } = parse(text) as Record<string, JsonValue>;
  return api.products.applyProduct({ manifest: fromJson(ProductManifestSchema, fields) });
}

/** Publishes `revision` unless it is what is live, and waits until it is LIVE. */
export async function ensurePublished(
  api: Api,
  wanted: { product: string; clusterId: string; gatewayId: string; revision: Revision; again: boolean },
  signal: AbortSignal,
): Promise<{ publish: ProductPublish; made: boolean }> {
  const { product, clusterId, gatewayId, revision } = wanted;
  const { productPublishes } = await api.publishes.listProductPublishes({ productId: product, clusterId, pageSize: 1 });
  const [newest] = productPublishes;
  const going: readonly State[] = [State.LIVE, State.PENDING, State.DISPATCHED, State.APPLYING];
  const same = newest?.revisionId === revision.id && newest.gatewayId === gatewayId && going.includes(newest.state);
  const publish =
    newest !== undefined && same && !wanted.again
      ? newest
      : await api.publishes.createProductPublish({ productId: product, clusterId, gatewayId, revisionId: revision.id });
  return { publish: await untilLive(api, publish, signal), made: publish !== newest };
}

async function untilLive(api: Api, publish: ProductPublish, signal: AbortSignal): Promise<ProductPublish> {
  if (publish.state === State.LIVE) return publish;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(liveWithinMs)]);
  const call = new AbortController();
  let newest = publish;
  try {
    const options = { signal: AbortSignal.any([limit, call.signal]), timeoutMs: unlimited };
    for await (const { productPublish } of api.publishes.watchProductPublish({ id: publish.id }, options)) {
      newest = productPublish ?? newest;
      if (newest.state === State.LIVE) return newest;
      if (newest.state === State.FAILED || newest.state === State.SUPERSEDED) break;
    }
  } catch (error) {
    if (!limit.aborted) throw error;
  } finally {
    call.abort();
  }
  signal.throwIfAborted();
  throw await notLive(newest);
}

async function notLive(publish: ProductPublish): Promise<StartFailure> {
  const state = Object.entries(State).find(([, value]) => value === publish.state)?.[0] ?? String(publish.state);
  const lines = publish.targets.map((target) => `at ${target.agent}: ${target.reason} ${target.message}`.trim());
  if (publish.targets.some(({ reason }) => reason === "PORT_TAKEN")) {
    const port = Number(/\b(\d{2,5})\b/.exec(publish.message)?.[1] ?? 0);
    if (port > 0) lines.push(`Port ${port} is held by ${holderText(await holderOf(port))}`);
    lines.push("Take another one with --gateway-port, or free ones with --port 0.");
  }
  return new StartFailure("publish", `hello to local is ${state}: ${publish.reason} ${publish.message}`.trim(), lines);
}

/** Waits until the data plane answers on every path of the example; returns its URL. */
export async function untilAnswers(api: Api, publishId: string, signal: AbortSignal): Promise<string> {
  const until = systemClock.monotonicMs() + answersWithinMs;
  let last = "no data plane is known";
  while (systemClock.monotonicMs() < until) {
    signal.throwIfAborted();
    // Asked again each time: a restarted data plane may have another port.
    const { targets } = await api.publishes.getProductPublish({ id: publishId });
    const url = targets.flatMap((target) => target.urls)[0]?.replace(/\/+$/, "");
    if (url !== undefined) {
      const answers = await Promise.all(paths.map((path) => ask(url + path, signal)));
      if (answers.every((answer) => answer === undefined)) return url;
      last = answers.find((answer) => answer !== undefined) ?? last;
    }
    await systemClock.sleep(lookEveryMs, signal);
  }
  throw new StartFailure("publish", `the data plane does not answer: ${last}`, [
    "See agent.log in the data directory.",
  ]);
}

/** Undefined where it answers with 200, else what it did. */
async function ask(url: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(5_000)]) });
    await answer.body?.cancel();
    return answer.ok ? undefined : `${url} answers with ${answer.status}`;
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
    return `${url}: ${cause}`;
  }
}
