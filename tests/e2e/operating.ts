/** What operators and providers do, over the API, as the tests need it again and again. */
import { Agent_Connectivity as Connectivity } from "@bowline/contract/agents";
import { type ProductPublish, ProductPublish_State as State } from "@bowline/contract/products";
import { until } from "@bowline/testing";
import type { Api } from "./api.ts";
import { type AgentOptions, startAgent, type TestAgent } from "./fixture.ts";
import type { Upstream } from "./requests.ts";

/** On two busy cores; a publish takes less than a second on idle ones. */
const settledWithinMs = 45_000;

let made = 0;

/** A name that no other test of the file uses. */
export function freshName(kind: string): string {
  made += 1;
  return `${kind}-${made}`;
}

export interface Place {
  api: Api;
  clusterId: string;
  cluster: string;
  gatewayId: string;
}

/** A cluster of local agents that may reach the test's upstreams, and a gateway at `port` (0: any free one). */
export async function makePlace(api: Api, port = 0): Promise<Place> {
  const cluster = await api.clusters.createCluster({
    cluster: { name: freshName("cluster"), runtime: "local", policy: { allowPrivateBackends: true } },
  });
  const gateway = await api.gateways.createGateway({
    gateway: { name: freshName("gateway"), listeners: [{ name: "http", protocol: "HTTP", port }] },
  });
  return { api, clusterId: cluster.id, cluster: cluster.name, gatewayId: gateway.id };
}

export async function issueToken(place: Place): Promise<string> {
  return (await place.api.tokens.createRegistrationToken({ clusterId: place.clusterId })).token;
}

/** Enrols an agent in the place and waits until it is online. */
export async function joinAgent(place: Place, options: AgentOptions = {}): Promise<TestAgent> {
  const agent = startAgent(place.api.url, { token: await issueToken(place), ...options });
  await online(place.api, agent);
  return agent;
}

export async function online(api: Api, agent: TestAgent): Promise<void> {
  await connectivity(api, agent, Connectivity.ONLINE);
}

export async function offline(api: Api, agent: TestAgent): Promise<void> {
  await connectivity(api, agent, Connectivity.OFFLINE);
}

async function connectivity(api: Api, agent: TestAgent, wanted: Connectivity): Promise<void> {
  const id = await agent.id();
  await until(async () => (await api.agents.getAgent({ id })).connectivity === wanted, {
    withinMs: settledWithinMs,
    what: `agent ${id} is ${nameIn(Connectivity, wanted)}`,
  });
}

export interface ProductOptions {
  /** Answered as `x-version`, so that a response tells which revision served it. */
  version?: string;
  backend: string;
  path?: string;
}

/** Applies a product with one route `/<name>` to one backend. Returns its revision's number. */
export async function applyProduct(api: Api, name: string, options: ProductOptions): Promise<number> {
  const { version = "1", backend, path = `/${name}` } = options;
  const { revision } = await api.products.applyProduct({
    manifest: {
      name,
      apiServices: [
        {
          name: "main",
          backends: [{ name: "upstream", url: backend, connectTimeout: { seconds: 1n, nanos: 0 } }],
          routes: [
            {
              name: "all",
              matches: [{ path: { type: 2, value: path } }],
              backends: [{ backend: "upstream" }],
              filters: [
                { kind: { case: "responseHeaderModifier", value: { set: [{ name: "x-version", value: version }] } } },
              ],
            },
          ],
        },
      ],
    },
  });
  return revision?.number ?? 0;
}

export async function publish(place: Place, product: string): Promise<ProductPublish> {
  const { clusterId, gatewayId } = place;
  return place.api.publishes.createProductPublish({ productId: product, clusterId, gatewayId });
}

/** Waits until the publish is in one of the states. A publish that FAILED is told at once. */
export async function publishIn(api: Api, id: string, ...states: State[]): Promise<ProductPublish> {
  let last: ProductPublish | undefined;
  await until(
    async () => {
      last = await api.publishes.getProductPublish({ id });
      return states.includes(last.state) || (last.state === State.FAILED && !states.includes(State.FAILED));
    },
    { withinMs: settledWithinMs, what: `publish ${id} in ${states.map((state) => nameIn(State, state)).join(" or ")}` },
  );
  if (last === undefined || !states.includes(last.state))
    throw new Error(`publish ${id} is ${nameIn(State, last?.state)}: ${last?.reason} ${last?.message}`);
  return last;
}

/** Waits until the publish is LIVE and its data plane's URL is known. Returns both. */
export async function live(api: Api, id: string): Promise<{ publish: ProductPublish; url: string }> {
  await publishIn(api, id, State.LIVE);
  return until(
    async () => {
      const found = await api.publishes.getProductPublish({ id });
      const url = found.targets[0]?.urls[0];
      return url === undefined ? undefined : { publish: found, url };
    },
    { withinMs: settledWithinMs, what: `publish ${id} tells where it answers` },
  );
}

export interface Serving {
  place: Place;
  agent: TestAgent;
  product: string;
  /** Of the product's route at the data plane. */
  url: string;
  publishId: string;
  /** Its pid. */
  dataPlane: number;
}

/** Publishes the next version and waits until it answers. */
export async function publishVersion(serving: Serving, upstream: Upstream, version: string): Promise<string> {
  const { place, product } = serving;
  await applyProduct(place.api, product, { backend: upstream.url, version });
  const { id } = await publish(place, product);
  await live(place.api, id);
  return id;
}

/** A place with one agent that serves version 1 of one product; `url` answers. */
export async function serving(api: Api, upstream: Upstream): Promise<Serving> {
  const place = await makePlace(api);
  const agent = await joinAgent(place);
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  const { url } = await live(api, id);
  const [dataPlane] = agent.dataPlanes();
  if (dataPlane === undefined) throw new Error("no data plane runs");
  return { place, agent, product, url: `${url}/${product}`, publishId: id, dataPlane };
}

function nameIn(names: Record<string, number>, value: number | undefined): string {
  return Object.keys(names).find((name) => names[name] === value) ?? String(value);
}
