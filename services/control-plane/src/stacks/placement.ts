/**
 * Which agents of a cluster get which services of a stack, and how many
 * instances of each. Pure: from what is wanted, who is there, and where it was.
 *
 * L1: sticky: an instance stays where it is while its agent may have it.
 * L2: a service's replicas are spread over all agents that may have it; the
 *     others stand together on one agent (the home), because services reach one
 *     another by name on one agent only. A service that may not be there goes
 *     where it may. Who is away comes last: what is new is to run.
 * L3: an agent that is cordoned gets nothing new, and keeps what it has.
 * L4: neither does one that lacks what a service needs: a runtime that tells less for a while takes nobody's data away.
 */
export interface PlacedService {
  name: string;
  /** `global`: one instance on each agent that may have it. */
  mode: "replicated" | "global";
  replicas: number;
  /** Of one agent; Infinity: no limit. */
  mostPerAgent: number;
  constraints: readonly Constraint[];
  /** Capabilities without which an agent cannot run it. */
  needs?: readonly string[];
}

/** `node.labels.region == north`, `node.hostname != press-1`. */
export interface Constraint {
  /** `labels.<name>`; `hostname`: the agent's name; `platform.os`, `platform.arch`: the agent's labels of these names. */
  subject: string;
  equal: boolean;
  value: string;
}

export interface PlaceableAgent {
  id: string;
  name: string;
  labels: Readonly<Record<string, string>>;
  cordoned: boolean;
  /** What it reports, as far as its cluster lets it. */
  capabilities?: readonly string[];
  /** It is not served now. */
  away?: boolean;
  /** Instances that it runs for others; fewer is better. */
  running: number;
}

/** Instances by service, by agent. */
export type Placement = ReadonlyMap<string, Readonly<Record<string, number>>>;

export interface Placed {
  placement: Map<string, Record<string, number>>;
  /** Services of which not all instances found an agent. */
  nowhere: string[];
  /** Of these services the capabilities that the agents lack which could have them otherwise. */
  lacking: Map<string, string[]>;
}

export function place(
  services: readonly PlacedService[],
  agents: readonly PlaceableAgent[],
  before: Placement = new Map(),
): Placed {
  const placement = new Map<string, Record<string, number>>();
  const nowhere: string[] = [];
  const lacking = new Map<string, string[]>();
  const findsNone = (service: PlacedService): void => {
    nowhere.push(service.name);
    const lacks = lackedBy(service, byRoom);
    if (lacks.length > 0) lacking.set(service.name, lacks);
  };
  const isAway = (agent: PlaceableAgent): number => (agent.away === true ? 1 : 0);
  const byRoom = agents.toSorted((a, b) => isAway(a) - isAway(b) || a.running - b.running || order(a.name, b.name));
  const home = homeOf(services, byRoom, before);
  const give = (agentId: string, service: string, count: number): void => {
    if (count === 0) return;
    const at = placement.get(agentId) ?? {};
    at[service] = (at[service] ?? 0) + count;
    placement.set(agentId, at);
  };
  for (const service of services) {
    const has = (agent: PlaceableAgent): number => before.get(agent.id)?.[service.name] ?? 0;
    const allowed = byRoom.filter(
      (agent) => fits(service, agent) && (has(agent) > 0 || (!agent.cordoned && lacks(service, agent).length === 0)), // L3, L4
    );
    if (service.mode === "global") {
      for (const agent of allowed) give(agent.id, service.name, 1);
      if (allowed.length === 0) findsNone(service);
      continue;
    }
    if (service.replicas === 0) continue;
    if (allowed.length === 0) {
      findsNone(service);
      continue;
    }
    // L1, then L2: where it was, then the home, then where there is most room.
    const inOrder = allowed.toSorted((a, b) => has(b) - has(a) || rank(a, home) - rank(b, home));
    const mostOf = (agent: PlaceableAgent): number =>
      Math.min(service.mostPerAgent, agent.cordoned || lacks(service, agent).length > 0 ? has(agent) : Infinity); // L3, L4
    const stay = inOrder.map((agent) => ({ most: Math.min(has(agent), mostOf(agent)) }));
    const counts = spread(
      service.replicas,
      inOrder.map((agent) => ({ most: mostOf(agent) })),
      spread(service.replicas, stay),
    );
    if (counts.reduce((sum, count) => sum + count, 0) < service.replicas) findsNone(service);
    inOrder.forEach((agent, index) => give(agent.id, service.name, counts[index] ?? 0));
  }
  return { placement, nowhere, lacking };
}

/** How many of the replicas each gets, evenly, at most what it takes, and at least what it has already. */
function spread(replicas: number, at: readonly { most: number }[], already?: readonly number[]): number[] {
  const counts = at.map((_, index) => already?.[index] ?? 0);
  const placed = counts.reduce((sum, count) => sum + count, 0);
  for (let left = replicas - placed; left > 0; left -= 1) {
    let best: number | undefined;
    for (const [index, one] of at.entries()) {
      const count = counts[index] ?? 0;
      if (count < one.most && (best === undefined || count < (counts[best] ?? 0))) best = index;
    }
    if (best === undefined) break;
    counts[best] = (counts[best] ?? 0) + 1;
  }
  return counts;
}

/** The agent where services stand together: where most of the stack is, else the one that may have most of it. */
function homeOf(
  services: readonly PlacedService[],
  byRoom: readonly PlaceableAgent[],
  before: Placement,
): string | undefined {
  const singles = services.filter((service) => service.mode === "replicated" && service.replicas > 0);
  const known = (agent: PlaceableAgent): number => Object.keys(before.get(agent.id) ?? {}).length;
  const may = (agent: PlaceableAgent): number =>
    singles.filter((service) => fits(service, agent) && lacks(service, agent).length === 0).length;
  const [best] = byRoom
    .filter((agent) => !agent.cordoned || known(agent) > 0)
    .toSorted((a, b) => known(b) - known(a) || may(b) - may(a));
  return best?.id;
}

function rank(agent: PlaceableAgent, home: string | undefined): number {
  return agent.id === home ? 0 : 1;
}

function fits(service: PlacedService, agent: PlaceableAgent): boolean {
  return service.constraints.every(({ subject, equal, value }) => {
    const found = subject === "hostname" ? agent.name : agent.labels[subject.replace(/^labels\./, "")];
    return (found === value) === equal;
  });
}

function lacks(service: PlacedService, agent: PlaceableAgent): string[] {
  return (service.needs ?? []).filter((need) => agent.capabilities?.includes(need) !== true);
}

/** What keeps the agent out that has most of what is needed; nothing where something else keeps all of them out. */
function lackedBy(service: PlacedService, agents: readonly PlaceableAgent[]): string[] {
  const [nearest] = agents
    .filter((agent) => fits(service, agent) && !agent.cordoned)
    .map((agent) => lacks(service, agent))
    .toSorted((a, b) => a.length - b.length);
  return nearest ?? [];
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
