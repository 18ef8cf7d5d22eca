/** What agents of a fleet do wrong on demand, and what came of it. */
import type { SimulatedAgent } from "./agent.ts";
import type { AgentWorld } from "./ports.ts";

/**
 * - `slow-reader`: reads nothing any more, while it is told a lot.
 * - `half-open`: its connection dies without a word to either end.
 * - `clock-skew`: its clock is wrong from now on; it connects again with it.
 * - `duplicate`: a second process has its identity, and both come back.
 * - `storm`: all of them are cut off in the same moment, and come back.
 */
export const misbehaviours = ["slow-reader", "half-open", "clock-skew", "duplicate", "storm"] as const;
export type Misbehaviour = (typeof misbehaviours)[number];

export interface MisbehaviourReport {
  kind: Misbehaviour;
  agents: number;
  begun: boolean;
  /** Agents that served again after it began. */
  back: number;
  /** From its beginning until the last of those served again. */
  backWithinMs: number | undefined;
  /** Reasons of their refused dials and lost sessions since it began. */
  troubles: Record<string, number>;
}

interface Culprit {
  index: number;
  agent: SimulatedAgent;
  /** Starts a second process with its identity. */
  twin: () => SimulatedAgent;
}

/** Within what a server takes for a host without time service. */
const defaultSkewMs = 50_000;

/** Which agent misbehaves how, by index: the first ones do. */
export function plannedKinds(counts: Partial<Record<Misbehaviour, number>>): Misbehaviour[] {
  return misbehaviours.flatMap((kind) => Array.from({ length: counts[kind] ?? 0 }, () => kind));
}

export interface Misbehaviours {
  add: (kind: Misbehaviour, culprit: Culprit) => void;
  /** An agent of that kind serves. */
  serves: (kind: Misbehaviour, index: number) => void;
  trouble: (kind: Misbehaviour, reason: string) => void;
  begin: (kind: Misbehaviour) => void;
  report: () => MisbehaviourReport[];
  stop: () => Promise<void>;
}

export function createMisbehaviours({
  world,
  clockSkewMs = defaultSkewMs,
}: {
  world: AgentWorld;
  clockSkewMs?: number | undefined;
}): Misbehaviours {
  const states = new Map(
    misbehaviours.map((kind) => [
      kind,
      {
        culprits: [] as Culprit[],
        twins: [] as SimulatedAgent[],
        begunAt: undefined as number | undefined,
        back: new Set<number>(),
        backAt: 0,
        troubles: new Map<string, number>(),
      },
    ]),
  );
  const stateOf = (kind: Misbehaviour) => {
    const state = states.get(kind);
    if (state === undefined) throw new Error(`no such misbehaviour: ${kind}`);
    return state;
  };

  function misbehave(kind: Misbehaviour, { index, agent, twin }: Culprit): void {
    switch (kind) {
      case "slow-reader":
        return agent.session()?.stopReading();
      case "half-open":
        return agent.goHalfOpen();
      case "clock-skew":
        agent.skew(index % 2 === 0 ? clockSkewMs : -clockSkewMs);
        return agent.session()?.drop();
      case "duplicate":
        return void stateOf(kind).twins.push(twin());
      case "storm":
        return agent.session()?.drop();
      default:
        kind satisfies never;
    }
  }

  return {
    add: (kind: Misbehaviour, culprit: Culprit): void => void stateOf(kind).culprits.push(culprit),
    serves(kind: Misbehaviour, index: number): void {
      const state = stateOf(kind);
      if (state.begunAt === undefined) return;
      if (!state.back.has(index)) state.backAt = performance.now();
      state.back.add(index);
    },
    trouble(kind: Misbehaviour, reason: string): void {
      const { begunAt, troubles } = stateOf(kind);
      if (begunAt !== undefined) troubles.set(reason, (troubles.get(reason) ?? 0) + 1);
    },
    begin(kind: Misbehaviour): void {
      const state = stateOf(kind);
      if (state.begunAt !== undefined || state.culprits.length === 0) return;
      state.begunAt = performance.now();
      for (const culprit of state.culprits) misbehave(kind, culprit);
    },
    report(): MisbehaviourReport[] {
      return [...states].flatMap(([kind, { culprits, begunAt, back, backAt, troubles }]) =>
        culprits.length === 0
          ? []
          : [
              {
                ...{ kind, agents: culprits.length, begun: begunAt !== undefined, back: back.size },
                backWithinMs: begunAt === undefined || back.size === 0 ? undefined : Math.round(backAt - begunAt),
                troubles: Object.fromEntries(troubles),
              },
            ],
      );
    },
    async stop(): Promise<void> {
      await Promise.all([...states.values()].flatMap(({ twins }) => twins.map((twin) => twin.stop("cut"))));
      for (const socket of world.halfOpen) socket.destroy();
    },
  };
}
