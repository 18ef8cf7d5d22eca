/**
 * The bounded queues of a replica, and what becomes of what finds no place in
 * each. The one list of them: metrics have a series for each, and
 * docs/operations/metrics.md is made of it.
 */
export const queues = {
  outbox: "Messages that wait to be sent to agents, over all sessions. Above 1024 of one: its session ends.",
  reports: "Receipts and results that wait for a commit. Beyond it the agent is asked to say it again.",
  progress: "Progress that waits to be written. Beyond it left out: newer follows.",
  last_seen: "Agents whose last sign of life waits to be written: one each.",
  signals: "Agents that wait to be looked up at which replica they are. Beyond it polls find them.",
  words: "Agents that wait to be told to other replicas. Beyond it their polls find them.",
  presence: "Sessions that wait to be written to Redis. Beyond it the next refresh writes them.",
  openings: "Dials in work. Above 256: refused, and counted in bowline_refused_total.",
  misuse: "Audit events of misuse that wait to be written. Beyond it only counted, in bowline_audit_suppressed_total.",
  events_remembered: "Events kept for watches. The oldest go; a watch reads those in the database.",
  spans: "Spans of traces that wait to be sent. Beyond it left out.",
} as const;

export type QueueName = keyof typeof queues;

/** Those that leave out, or refuse, what finds no place, and count it as dropped. */
export const droppingQueues = [
  "outbox",
  "reports",
  "progress",
  "signals",
  "words",
  "presence",
  "spans",
] as const satisfies readonly QueueName[];
export type DroppingQueue = (typeof droppingQueues)[number];
