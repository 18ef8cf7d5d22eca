/** A small history in which all is well, made by hand: the checker's tests spoil it. */
import type { CommandState } from "@bowline/db";
import type { Effect, Ended, Entry, Event, Step } from "./events.ts";

const agent = "agent_1";
const host = "host_1";

export interface Told {
  command: string;
  deployment: string;
  generation: number;
  removal?: boolean;
  /** In order, from the enqueue on. */
  states: readonly CommandState[];
}

/** Two deployments; one is updated, cancelled once, and removed at last. */
export const told: readonly Told[] = [
  { command: "c1", deployment: "d1", generation: 1, states: ["READY", "ASSIGNED", "RUNNING", "SUCCEEDED"] },
  { command: "c2", deployment: "d1", generation: 2, states: ["BLOCKED", "READY", "ASSIGNED", "RUNNING", "SUCCEEDED"] },
  { command: "c3", deployment: "d1", generation: 3, states: ["READY", "CANCELLED"] },
  { command: "c4", deployment: "d2", generation: 1, states: ["READY", "ASSIGNED", "RUNNING", "SUCCEEDED"] },
  {
    command: "c5",
    deployment: "d1",
    generation: 4,
    removal: true,
    states: ["READY", "ASSIGNED", "RUNNING", "SUCCEEDED"],
  },
];

export function goodHistory(): Entry[] {
  const entries: Entry[] = [];
  let at = 1_000;
  let number = 0;
  const add = (event: Event): void => void entries.push({ at: (at += 10), ...event });
  const content = (of: { deployment: string; generation: number }) => `content of ${of.deployment} ${of.generation}`;
  const effect = (of: Told, what: Effect["what"]): void => {
    const { deployment, generation } = of;
    add({ kind: "effect", host, agent, pid: 7, what, deployment, generation, content: content(of) });
  };
  for (const one of told) {
    const { command, deployment, generation, removal = false, states } = one;
    const commands = [{ command, deployment, generation }];
    const call = { askedAt: at, outcome: "ok", reason: "", commands, boundMs: 5_000 } as const;
    const what = removal ? "unpublish" : "publish";
    const version = removal ? "" : `v${generation}`;
    add({ kind: "spec", deployment, generation, content: content(one), versions: [version] });
    add({ kind: "answered", what, key: `key ${command}`, version, ...call });
    let before: CommandState | "" = "";
    for (const state of states) {
      if (state === "CANCELLED")
        add({ kind: "answered", what: "cancel", key: `cancel ${command}`, version: "", ...call });
      if (state === "SUCCEEDED") {
        effect(one, "begun");
        effect(one, removal ? "removed" : "applied");
        effect(one, "ended");
      }
      number += 1;
      add(stepOf(one, number, before, state));
      add({ kind: "watched", command, state, attempt: attemptIn(state) });
      before = state;
    }
    if (before !== "") add(endedOf(one, before));
  }
  add({ kind: "waited", what: "all is well again", boundMs: 1_000, tookMs: 200 });
  return entries;
}

const attemptIn = (state: CommandState | ""): number =>
  state === "ASSIGNED" || state === "RUNNING" || state === "SUCCEEDED" ? 1 : 0;

function stepOf(of: Told, number: number, from: Step["from"], to: CommandState): Step {
  const { command, deployment, generation } = of;
  const bound = (state: CommandState | ""): number | null => (state === "ASSIGNED" || state === "RUNNING" ? 1 : null);
  return {
    ...{ kind: "step", number, transaction: `t${number}`, command, deployment, agent, generation, from, to },
    ...{ attemptBefore: attemptIn(from), attempt: attemptIn(to), epochBefore: bound(from), epoch: bound(to) },
    ...{ sessionEpoch: 1, sessionState: "SERVING", outcomeAttemptBefore: null, reason: "" },
    outcomeAttempt: to === "SUCCEEDED" ? 1 : null,
  };
}

function endedOf({ command, deployment, generation, removal = false }: Told, state: CommandState): Ended {
  const more = { attempt: attemptIn(state), reason: "", removal, createdBy: "somebody" };
  return { kind: "command", command, deployment, agent, generation, state, ...more };
}
