/** How agents' sessions are carried: what tests of streams and polls do again and again. */
import { expect } from "@jest/globals";
import { Agent_Connectivity, Agent_Transport } from "@bowline/contract/agents";
import { until } from "@bowline/testing";
import type { Api } from "./api.ts";
import { type AgentOptions, startAgent, type TestAgent } from "./fixture.ts";
import { applyProduct, freshName, issueToken, live, makePlace, type Place, publish } from "./operating.ts";
import { servedVersion, type Upstream } from "./requests.ts";

/** Two tries of a stream that nothing answers take twice the first; a look for a free way is taken every second. */
const impatient = ["--greeting-within-ms", "2000", "--stream-retry-ms", "1000"];

export interface Joined {
  place: Place;
  agent: TestAgent;
  id: string;
}

/** Starts an agent of a new place that dials the server at `url`; resolves when it has enrolled. */
export async function join(api: Api, url: string, more: AgentOptions = {}): Promise<Joined> {
  const place = await makePlace(api);
  const flags = [...impatient, ...(more.flags ?? [])];
  const agent = startAgent(url, { ...more, token: await issueToken(place), flags });
  return { place, agent, id: await agent.id() };
}

/** Waits until the agent is online like this. Returns its session's epoch. */
export async function carriedBy(api: Api, id: string, transport: Agent_Transport): Promise<number> {
  let epoch = 0;
  await until(
    async () => {
      const shown = await api.agents.getAgent({ id });
      ({ epoch } = shown);
      return shown.connectivity === Agent_Connectivity.ONLINE && shown.transport === transport;
    },
    { withinMs: 60_000, what: `${id} online by ${transport === Agent_Transport.POLL ? "polling" : "a stream"}` },
  );
  return epoch;
}

/** Publishes a product in the place, and asks for it there. */
export async function goesLive(place: Place, upstream: Upstream): Promise<void> {
  const product = freshName("product");
  await applyProduct(place.api, product, { backend: upstream.url, version: "7" });
  const { url } = await live(place.api, (await publish(place, product)).id);
  expect(await servedVersion(`${url}/${product}`)).toBe("7");
}
