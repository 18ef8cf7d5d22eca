/**
 * The load as a process of its own. Keys of agents stay here: the parent says
 * how many to enrol and what they are to do.
 */
import { answerCalls } from "../stand/child.ts";
import { type Dispatched, type Fleet, openFleet } from "./dispatch.ts";
import { type Credentials, enrol, named } from "./enrol.ts";

const agents = new Map<string, Credentials[]>();
const fleets = new Map<string, Fleet>();

export const calls = {
  /** Enrols agents under a name of the group; their ids. `token` undefined: a peer's. */
  async enrol(given: { group: string; url: string; token?: string; count: number }): Promise<string[]> {
    const { group, url, token, count } = given;
    const credentials = token === undefined ? named(count) : await enrol(url, token, count);
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
    const fleet = fleets.get(given.fleet);
    if (fleet === undefined) throw new Error(`there is no fleet ${given.fleet}`);
    return fleet.run(given);
  },
  async closeFleet(given: { fleet: string }): Promise<void> {
    await fleets.get(given.fleet)?.close();
    fleets.delete(given.fleet);
  },
};

export type LoadCalls = typeof calls;

answerCalls(calls, async () => {
  for (const fleet of fleets.values()) await fleet.close();
});
