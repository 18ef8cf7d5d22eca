/** Prometheus metrics. Names start with `bowline_`; units are in the names. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

export interface MetricSources {
  sessions(): { sessions: number; waiting: number; foundByPoll: number };
  pool(): { total: number; idle: number; waiting: number };
  connections(): number;
  commandsByState(): Promise<Record<string, number>>;
}

export interface Metrics {
  observe(call: { method: string; code: string; seconds: number }): void;
  /** A call or a dial was refused because of this limit. */
  refused(limit: string): void;
  watch(sources: MetricSources): void;
  read(): Promise<{ contentType: string; body: string }>;
}

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: "bowline_" });
  const calls = new Histogram({
    name: "bowline_call_duration_seconds",
    help: "Duration of calls by method and code.",
    labelNames: ["method", "code"],
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registers: [registry],
  });
  const refusals = new Counter({
    name: "bowline_refused_total",
    help: "Calls and dials that were refused, by the limit that they exceeded.",
    labelNames: ["limit"],
    registers: [registry],
  });
  const gauge = (name: string, help: string, read: () => number): void => {
    void new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  };
  return {
    observe: ({ method, code, seconds }) => calls.observe({ method, code }, seconds),
    refused: (limit) => refusals.inc({ limit }),
    watch(sources) {
      gauge("bowline_sessions", "Agents' sessions that this replica holds.", () => sources.sessions().sessions);
      gauge("bowline_reports_waiting", "Reports of agents that wait for a commit.", () => sources.sessions().waiting);
      gauge(
        "bowline_commands_found_by_poll",
        "Commands that no wake-up had announced.",
        () => sources.sessions().foundByPoll,
      );
      gauge("bowline_database_connections", "Connections to PostgreSQL.", () => sources.pool().total);
      gauge("bowline_database_connections_idle", "Connections to PostgreSQL that are idle.", () => sources.pool().idle);
      gauge(
        "bowline_database_callers_waiting",
        "Callers that wait for a connection to PostgreSQL.",
        () => sources.pool().waiting,
      );
      gauge("bowline_connections", "Open connections to the port.", () => sources.connections());
      void new Gauge({
        name: "bowline_commands",
        help: "Open commands by state.",
        labelNames: ["state"],
        registers: [registry],
        async collect() {
          this.reset();
          for (const [state, count] of Object.entries(await sources.commandsByState())) this.set({ state }, count);
        },
      });
    },
    async read() {
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
}
