/**
 * A scripted agent that keeps itself going, for tests with many: it takes every
 * command, reports that it succeeded, keeps results until they are acknowledged,
 * leaves when it is asked to, and dials again. It is one of the simulated agents
 * of fleet/, which `npm run fleet` has thousands of.
 */
import { atEnd } from "./endings.ts";
import { startSimulatedAgent } from "./fleet/agent.ts";
import { createWheel } from "./fleet/wheel.ts";
import type { ScriptedAgent } from "./scripted-agent.ts";

export interface FleetAgent {
  agentId: string;
  /** Sessions that the server greeted. */
  sessions(): number;
  /** The open session, if there is one. */
  session(): { drop(): void } | undefined;
  /** How often each attempt of each command was carried out, as `command attempt`. */
  effects: ReadonlyMap<string, number>;
  /** Reasons why dials were refused or sessions ended, other than in order. */
  troubles: readonly string[];
  /** Ends it; called at the end by itself. */
  stop(): Promise<void>;
}

export interface FleetOptions {
  /** Where it dials. Default: where it enrolled. */
  url?: string;
  /** How long a command takes. Default 0. */
  workMs?: number;
  /** Default: what the server says in its greeting. */
  heartbeatMs?: number;
}

/** A test does not wait as long as a real agent does. */
const backoff = { floorMs: 250, baseMs: 500, capMs: 1_000 };

/** Takes over an agent that has enrolled and not connected. */
export function startFleetAgent(agent: ScriptedAgent, options: FleetOptions = {}): FleetAgent {
  const { url = agent.url, workMs = 0, heartbeatMs } = options;
  const wheel = createWheel();
  const effects = new Map<string, number>();
  const troubles: string[] = [];
  let counter = 0;
  const simulated = startSimulatedAgent({
    world: { wheel, random: Math.random, halfOpen: new Set() },
    target: () => ({ url }),
    sign(floor, now) {
      counter = Math.max(counter, floor, Date.now()) + 1;
      return agent.assertion({ counter, now });
    },
    facts: { runtime: "local", runtimeIdentity: agent.runtimeIdentity, labels: {} },
    plan: () => ({ runMs: workMs }),
    ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
    backoff,
    notes: {
      phase: () => undefined,
      pushed: () => undefined,
      effect(commandId, attempt) {
        const which = `${commandId} ${attempt}`;
        effects.set(which, (effects.get(which) ?? 0) + 1);
      },
      carried: () => undefined,
      answered: () => undefined,
      beat: () => undefined,
      trouble: (reason) => void troubles.push(reason),
    },
  });
  const stop = async (): Promise<void> => {
    await simulated.stop("cut");
    wheel.stop();
  };
  atEnd(stop);
  return {
    agentId: agent.agentId,
    sessions: simulated.sessions,
    session: simulated.session,
    ...{ effects, troubles, stop },
  };
}
