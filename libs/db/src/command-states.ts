/**
 * The states of a command, as data: read by the migration that writes the SQL
 * check, by the engine's transition table, by the documentation and the tests.
 *
 * C1: a terminal state (`waits: "nothing"`) has no way out.
 * C2: every state that waits for an agent can be left without that agent.
 */
export const commandStates = {
  BLOCKED: { waits: "queue" },
  READY: { waits: "queue" },
  ASSIGNED: { waits: "agent" },
  RUNNING: { waits: "agent" },
  CANCELLING: { waits: "agent" },
  RETRY_WAIT: { waits: "clock" },
  SUCCEEDED: { waits: "nothing" },
  FAILED: { waits: "nothing" },
  CANCELLED: { waits: "nothing" },
  SUPERSEDED: { waits: "nothing" },
  EXPIRED: { waits: "nothing" },
  LOST: { waits: "nothing" },
} as const satisfies Record<string, { waits: "queue" | "agent" | "clock" | "nothing" }>;

export type CommandState = keyof typeof commandStates;

/** States that are not terminal. */
export const openCommandStates = (Object.keys(commandStates) as CommandState[]).filter(
  (state) => commandStates[state].waits !== "nothing",
);

/** Quotes constant names for a SQL `IN`. Only for constants of this code, never for input. */
export function sqlList(names: readonly string[]): string {
  return names.map((name) => `'${name}'`).join(", ");
}
