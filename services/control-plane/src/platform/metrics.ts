/**
 * Prometheus metrics: what is counted and timed. metrics-gauges.ts has what is
 * read at a scrape. docs/operations/metrics.md is made of both
 * (`npm run docs:metrics`).
 *
 * M1: a label's values come from closed sets: methods, codes, reasons, states.
 *     None is, or is derived from, what a caller or an agent wrote: that would
 *     be without bound, and would show tenants' names to whoever may scrape.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import { type GaugeSources, watchGauges } from "./metrics-gauges.ts";
import { type DroppingQueue, droppingQueues } from "./queues.ts";

/** The way of a command, in the order of its steps. */
export type CommandStep =
  | "enqueue_to_claim"
  | "claim_to_push"
  | "push_to_receipt"
  | "receipt_to_result"
  | "result_to_recorded";

/** How a wake-up reached this replica. */
export type WakeVia = "local" | "redis" | "notify";

/** What went wrong that never should; each is in the log too. */
export type Defect = "blocked_promoted" | "journal_incomplete" | "domain_error";

/** What an agent did that none does by itself; see sessions/misuse.ts, and docs/operations/alerts.md. */
export const misuseKinds = [
  /** A signed assertion came again: it was copied, or the agent's disk is an older one. */
  "ASSERTION_REPLAYED",
  /** A key or token of an agent that was revoked, or retired. */
  "AGENT_REVOKED",
  "AGENT_RETIRED",
  /** A key that the agent has replaced: a dead host is back, or its disk is elsewhere. */
  "AGENT_KEY_REPLACED",
  /** It spoke about a command of another agent, or asked for one. */
  "FOREIGN_COMMAND",
  /** It asked for a deployment of another agent. */
  "FOREIGN_DEPLOYMENT",
  /** It said more than an agent has to say. */
  "FLOODING",
] as const;
export type MisuseKind = (typeof misuseKinds)[number];

/** As in the sessions' rows; labels have it in lower case. */
export type Transport = "STREAM" | "POLL";

export interface Metrics {
  /** A call has ended. `reason`: the stable reason of a refusal. */
  observe(call: { method: string; code: string; reason?: string | undefined; seconds: number }): void;
  /** A call or a dial was refused because of this limit. */
  refused(limit: string): void;
  sessionOpened(transport: Transport): void;
  sessionEnded(transport: Transport, reason: string): void;
  step(step: CommandStep, seconds: number): void;
  /** A publish became LIVE this long after it was made. */
  published(seconds: number): void;
  /** Commands were claimed as they were enqueued, after a wake-up, or found by the poll. */
  claimed(via: "enqueue" | "wake" | "poll", count: number): void;
  woken(via: WakeVia, count: number): void;
  commandEnded(state: string): void;
  /** Something did not fit into a bounded queue. */
  dropped(queue: DroppingQueue, count?: number): void;
  /** A message of an agent was not taken; `reason` is one of ours. */
  messageRefused(reason: string): void;
  /** An agent did what none does by itself. */
  misused(kind: MisuseKind): void;
  /** An audit event was left out, because its agent had caused too many. */
  auditSuppressed(): void;
  swept(why: string): void;
  defect(kind: Defect): void;
  acquired(seconds: number): void;
  breakerOpen(open: boolean): void;
  presenceLag(seconds: number): void;
  presenceOnline(agents: number): void;
  /** Redis answered, or did not. */
  redisCommand(command: string, seconds: number, ok: boolean): void;
  /** A message with wake-ups went to another replica. */
  wordSent(via: Exclude<WakeVia, "local">): void;
  /** Upkeep of history did this. */
  history(did: string, count: number): void;
  /** New TLS files were seen, and taken or not. */
  tlsReloaded(outcome: "ok" | "failed"): void;
  /** Adds what is read at a scrape. Once. */
  watch(sources: GaugeSources): void;
  read(): Promise<{ contentType: string; body: string }>;
  readonly registry: Registry;
}

/** From a local call to a page of a slow database. */
const callBuckets = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
/** From milliseconds to the run timeout's default (5 min) and an hour offline. */
const commandBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3_600];
/** A free connection takes microseconds; 5 s is the pool's limit. */
const acquireBuckets = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1, 5];

/** Up to the limit of one command. */
const redisBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25];

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter<Label>({ name, help, labelNames, registers });
  const histogram = <Label extends string>(name: string, help: string, buckets: number[], ...labelNames: Label[]) =>
    new Histogram<Label>({ name, help, buckets, labelNames, registers });
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });

  const calls = histogram("bowline_call_duration_seconds", "Duration of API calls.", callBuckets, "method", "code");
  const refused = counter("bowline_refused_total", "Calls and dials refused, by the limit they exceeded.", "limit");
  const enrolments = counter("bowline_enrolments_total", "Enrolments: ok, or why one was refused.", "outcome");
  const agentRefusals = counter(
    "bowline_agent_refusals_total",
    "Agents' dials and calls refused, by reason.",
    "reason",
  );
  const messages = counter(
    "bowline_agent_messages_refused_total",
    "Messages of agents not taken, by reason.",
    "reason",
  );
  const misuse = counter("bowline_agent_misuse_total", "What agents did that none does by itself.", "kind");
  const opened = counter("bowline_sessions_opened_total", "Agents' sessions opened.", "transport");
  const ended = counter("bowline_sessions_ended_total", "Agents' sessions ended, by reason.", "transport", "reason");
  const steps = histogram(
    "bowline_command_step_seconds",
    "Time between two steps of a command. enqueue_to_claim only of first attempts; what a step of an earlier session began is not timed.",
    commandBuckets,
    "step",
  );
  const live = histogram("bowline_publish_to_live_seconds", "From a publish to its LIVE.", commandBuckets);
  const claimed = counter(
    "bowline_commands_claimed_total",
    "Commands claimed; enqueue: in its own transaction, poll: without a wake-up.",
    "via",
  );
  const wakeups = counter("bowline_wakeups_total", "Agents woken here, by the way the wake-up came.", "via");
  const commandsEnded = counter("bowline_commands_ended_total", "Commands ended here, by their last state.", "state");
  const dropped = counter("bowline_queue_dropped_total", "What found no place in a bounded queue.", "queue");
  const suppressed = counter("bowline_audit_suppressed_total", "Audit events left out, because one agent caused many.");
  const swept = counter("bowline_swept_total", "Commands that the sweep changed, by why.", "why");
  const defects = counter("bowline_defects_total", "What never should happen; the log has more.", "kind");
  const acquired = histogram(
    "bowline_database_acquire_seconds",
    "Time until a caller had a connection to PostgreSQL.",
    acquireBuckets,
  );
  const breaker = gauge("bowline_redis_breaker_open", "1: Redis is taken for away, and nothing waits for it.");
  const presenceLag = gauge("bowline_presence_lag_seconds", "Age of the presence that this replica wrote last.");
  const online = gauge("bowline_presence_online", "Agents present in Redis, on all replicas.");
  const redisCommands = histogram(
    "bowline_redis_command_seconds",
    "Duration of commands to Redis: answered, or failed (given up after 250 ms).",
    redisBuckets,
    "command",
    "outcome",
  );
  const sent = counter("bowline_wakeups_sent_total", "Messages with wake-ups sent to other replicas, by way.", "via");
  const history = counter(
    "bowline_history_upkeep_total",
    "What upkeep of history did: partitions made and dropped, rows and keys deleted, ended commands moved.",
    "did",
  );
  const tlsReloads = counter(
    "bowline_tls_reloads_total",
    "New TLS files: taken, or not working and left out.",
    "outcome",
  );
  for (const kind of ["blocked_promoted", "journal_incomplete", "domain_error"] satisfies Defect[])
    defects.inc({ kind }, 0);
  for (const queue of droppingQueues) dropped.inc({ queue }, 0);
  for (const kind of misuseKinds) misuse.inc({ kind }, 0);

  return {
    registry,
    observe({ method, code, reason, seconds }) {
      calls.observe({ method, code }, seconds);
      if (!method.startsWith(agentService)) return;
      if (method.endsWith("/Enroll")) enrolments.inc({ outcome: reason ?? "ok" });
      else if (reason !== undefined) agentRefusals.inc({ reason });
    },
    refused: (limit) => refused.inc({ limit }),
    sessionOpened: (transport) => opened.inc({ transport: transport.toLowerCase() }),
    sessionEnded: (transport, reason) => ended.inc({ transport: transport.toLowerCase(), reason }),
    step: (step, seconds) => steps.observe({ step }, Math.max(0, seconds)),
    published: (seconds) => live.observe(Math.max(0, seconds)),
    claimed: (via, count) => claimed.inc({ via }, count),
    woken: (via, count) => wakeups.inc({ via }, count),
    commandEnded: (state) => commandsEnded.inc({ state }),
    dropped: (queue, count = 1) => dropped.inc({ queue }, count),
    messageRefused: (reason) => messages.inc({ reason }),
    misused: (kind) => misuse.inc({ kind }),
    auditSuppressed: () => suppressed.inc(),
    swept: (why) => swept.inc({ why }),
    defect: (kind) => defects.inc({ kind }),
    acquired: (seconds) => acquired.observe(seconds),
    breakerOpen: (open) => breaker.set(open ? 1 : 0),
    presenceLag: (seconds) => presenceLag.set(seconds),
    presenceOnline: (agents) => online.set(agents),
    redisCommand: (command, seconds, ok) =>
      redisCommands.observe({ command, outcome: ok ? "answered" : "failed" }, seconds),
    wordSent: (via) => sent.inc({ via }),
    history: (did, count) => history.inc({ did }, count),
    tlsReloaded: (outcome) => tlsReloads.inc({ outcome }),
    watch: (sources) => watchGauges(registry, sources),
    async read() {
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
}

const agentService = "bowline.agent.v1.";
