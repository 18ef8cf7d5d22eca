/**
 * The load as a process of its own. Keys of agents stay here: the parent says
 * how many to enrol and what they are to do.
 */
import { answerCalls } from "../stand/child.ts";
import { type Dispatched, type Fleet, openFleet } from "./dispatch.ts";
import { type Credentials, enrol, named } from "./enrol.ts";
import { openStreams, type Streams, type StreamsOptions } from "./streams.ts";

const agents = new Map<string, Credentials[]>();
const fleets = new Map<string, Fleet>();
const streams = new Map<string, Streams>();

export const calls = {
  /** Enrols agents under a name of the group; their ids. `tokens` undefined: a peer's. */
  async enrol(given: { group: string; url: string; tokens?: string[]; count: number }): Promise<string[]> {
    const { group, url, tokens, count } = given;
    const credentials = tokens === undefined ? named(count) : await enrol(url, tokens, count);
    agents.set(group, credentials);
    return credentials.map(({ agentId }) => agentId);
  },
  /** Connects a group's agents, and callers beside them. */
  async openFleet(given: {
    fleet: string;
    group: string;
    url: string;
    callAt?: string;
    authorization: string;
    deployments: string[];
  }): Promise<void> {
    fleets.set(given.fleet, await openFleet({ ...given, agents: agents.get(given.group) ?? [] }));
  },
  async dispatch(given: { fleet: string; callers: number; forMs: number; limit?: number }): Promise<Dispatched> {
    return fleetOf(given).run(given);
  },
  oneByOne: (given: { fleet: string; commands: number; pauseMs: number }) => fleetOf(given).oneByOne(given),
  async closeFleet(given: { fleet: string }): Promise<void> {
    await fleets.get(given.fleet)?.close();
    fleets.delete(given.fleet);
  },
  /** Connects agents of a group, all or the first `only`, which only hold their streams. */
  async openStreams(
    given: { streams: string; group: string; only?: number } & Omit<StreamsOptions, "agents">,
  ): Promise<void> {
    const all = agents.get(given.group) ?? [];
    streams.set(given.streams, await openStreams({ ...given, agents: all.slice(0, given.only ?? all.length) }));
  },
  echo: (given: { streams: string; forMs: number; receiptEach: number }) => streamsOf(given).echo(given),
  beat: (given: { streams: string; everyMs: number; forMs: number }) => streamsOf(given).beat(given),
  comeBack: (given: { streams: string }) => streamsOf(given).comeBack(),
  allOpen: async (given: { streams: string }) => streamsOf(given).allOpen(),
  async closeStreams(given: { streams: string }): Promise<void> {
    streams.get(given.streams)?.close();
    streams.delete(given.streams);
  },
};

function fleetOf({ fleet: name }: { fleet: string }): Fleet {
  const found = fleets.get(name);
  if (found === undefined) throw new Error(`there is no fleet ${name}`);
  return found;
}

function streamsOf({ streams: name }: { streams: string }): Streams {
  const found = streams.get(name);
  if (found === undefined) throw new Error(`there are no streams ${name}`);
  return found;
}

export type LoadCalls = typeof calls;

answerCalls(calls, async () => {
  for (const fleet of fleets.values()) await fleet.close();
  for (const held of streams.values()) held.close();
});
