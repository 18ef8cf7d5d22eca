/**
 * Stacks: Compose files as versioned resources, rolled out to the agents of a
 * cluster. @bowline/compose reads them; here they become deployments.
 *
 *   apply.ts, stacks.ts   apply; down, stop, start, restart, roll back
 *   rollouts.ts           steps become commands         steps.ts, phases.ts   which is next, pure
 *   wishes.ts, targets.ts what each agent is to have    sides.ts, colours.ts  old and new side by side, pure
 *   rollout-rows.ts, rollout-requests.ts  their rows; pause, resume, promote, abort
 *   placement.ts          which agent gets what, pure   plan.ts       what an apply would change
 *   compile.ts, container.ts   a model's services as a deployment's spec
 *   policy.ts             a rollout's policy
 *   compose-source.ts     files to a model, and what is refused
 *   standing.ts           what is refused of what is there
 *   revisions.ts          models, kept                  rows.ts       locks and rows
 *   stack-secrets.ts      which value of which secret
 *   owner.ts              what outcomes of commands do  due.ts        what time and arriving agents do
 *   queries.ts, history-queries.ts, instances.ts, rpc.ts, ports.ts
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { Resident } from "../clusters/index.ts";
import type { Owner } from "../commands/index.ts";
import { createBell } from "../platform/bell.ts";
import { lookAtOpen, placeStacks, stepDue, untilDue } from "./due.ts";
import { stackOwner } from "./owner.ts";
import type { StackPorts } from "./ports.ts";
import { registerStacks } from "./rpc.ts";
import { downAll } from "./stacks.ts";

export type { StackPorts } from "./ports.ts";
export { stackInstances } from "./instances.ts";

export interface Stacks {
  register(router: ConnectRouter): void;
  /** By the kind of the deployments that this slice owns. */
  owners: Record<string, Owner>;
  /** An agent came, or changed so that something may belong to it now. A hint. */
  agentChanged(): void;
  /** What a cluster's deletion asks of its stacks. */
  resident: Resident;
  /** Takes due steps and places what waits for agents, when told and at an interval; until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Without any hint a step is taken this late at most: another replica recorded what made it due. */
const lookEveryMs = 2_000;
/** Without any hint an agent gets what belongs to it this late at most. */
const placeEveryMs = 15_000;
/** Sessions of thousands of agents open and end all the time: they are looked at together. */
const placeAtMostEveryMs = 2_000;

export function createStacks(given: Omit<StackPorts, "ring">): Stacks {
  const bell = createBell();
  let agentsChanged = true;
  const ports: StackPorts = { ...given, ring: () => bell.ring() };
  return {
    register: (router) => registerStacks(router, ports),
    owners: { stack: stackOwner(ports) },
    agentChanged() {
      agentsChanged = true;
      bell.ring();
    },
    resident: {
      remaining: async () => 0, // what is deployed counts as deployments
      removeAll: (clusterId) => downAll(ports, clusterId),
      forget: async () => undefined,
    },
    async run(signal) {
      let placedAt = 0;
      while (!signal.aborted) {
        const seen = bell.count();
        let waitMs = lookEveryMs;
        try {
          const sinceMs = performance.now() - placedAt;
          const arrived = agentsChanged && sinceMs > placeAtMostEveryMs;
          if (arrived) await lookAtOpen(ports); // one that came back may be next
          await stepDue(ports);
          if (arrived || sinceMs > placeEveryMs) {
            agentsChanged = false;
            placedAt = performance.now();
            await placeStacks(ports);
          }
          waitMs = await untilDue(ports, lookEveryMs);
        } catch (error) {
          if (!signal.aborted) ports.engine().log.warn({ error }, "stacks were not looked after; tried again");
        }
        await bell.wait(seen, waitMs, signal);
      }
    },
  };
}
