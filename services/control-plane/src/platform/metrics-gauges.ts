/** Gauges: what is read when somebody scrapes. metrics.ts has what is counted. */
import { Gauge, type Registry } from "prom-client";
import type { Census } from "./census.ts";
import type { QueueName } from "./queues.ts";

export interface GaugeSources {
  sessions(): readonly { phase: string; transport: string; count: number }[];
  /** What waits in each bounded queue of this replica. */
  queues(): Readonly<Record<QueueName, number>>;
  pool(): { total: number; idle: number; waiting: number };
  connections(): number;
  /** When the certificate in force ends; undefined: no TLS. */
  certificateEnds(): Date | undefined;
  /** Watches that are open, over all protocols. */
  watches(): number;
  /** Seconds since this replica last renewed its lease. */
  leaseAge(): number;
  /** Seconds since a turn of history's upkeep went through here. */
  historyAge(): number;
  census(): Promise<Census | undefined>;
}

type Labels = Record<string, string>;
type Sample = readonly [Labels, number];

export function watchGauges(registry: Registry, sources: GaugeSources): void {
  const gauge = (
    name: string,
    help: string,
    labelNames: readonly string[],
    read: () => readonly Sample[] | Promise<readonly Sample[]>,
  ): void => {
    void new Gauge({
      name,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      async collect() {
        const samples = await read();
        this.reset(); // Only now: two scrapes may meet, and neither may see nothing.
        if (labelNames.length === 0 && samples.length === 0) this.remove();
        for (const [labels, value] of samples) this.set(labels, value);
      },
    });
  };
  const one = (name: string, help: string, read: () => number): void => gauge(name, help, [], () => [[{}, read()]]);
  const counted = (name: string, help: string, label: string, pick: (census: Census) => Record<string, number>): void =>
    gauge(name, help, [label], async () => {
      const census = await sources.census();
      return census === undefined ? [] : Object.entries(pick(census)).map(([key, count]) => [{ [label]: key }, count]);
    });
  const single = (name: string, help: string, pick: (census: Census) => number): void =>
    gauge(name, help, [], async () => {
      const census = await sources.census();
      return census === undefined ? [] : [[{}, pick(census)]];
    });

  gauge("bowline_sessions", "Agents' sessions that this replica holds.", ["phase", "transport"], () =>
    sources.sessions().map(({ phase, transport, count }) => [{ phase, transport }, count]),
  );
  gauge("bowline_queue_length", "What waits in a bounded queue of this replica.", ["queue"], () =>
    Object.entries(sources.queues()).map(([queue, length]) => [{ queue }, length]),
  );
  gauge("bowline_database_connections", "Connections to PostgreSQL.", ["state"], () => {
    const { total, idle } = sources.pool();
    return [
      [{ state: "in_use" }, total - idle],
      [{ state: "idle" }, idle],
    ];
  });
  one(
    "bowline_database_callers_waiting",
    "Callers that wait for a connection to PostgreSQL.",
    () => sources.pool().waiting,
  );
  one("bowline_connections", "Open connections to the port.", () => sources.connections());
  gauge("bowline_tls_certificate_expires_timestamp_seconds", "When the server's certificate ends.", [], () => {
    const ends = sources.certificateEnds();
    return ends === undefined ? [] : [[{}, ends.getTime() / 1000]];
  });
  one("bowline_watches", "Watches that are open.", () => sources.watches());
  one("bowline_lease_age_seconds", "Time since this replica renewed its lease.", () => sources.leaseAge());

  one("bowline_history_upkeep_age_seconds", "Time since upkeep of history last went through without a failure.", () =>
    sources.historyAge(),
  );

  counted("bowline_commands", "Open commands of the installation, by state.", "state", (census) => census.commands);
  single(
    "bowline_commands_oldest_ready_seconds",
    "How long the oldest READY command of an agent with a session waits.",
    (census) => census.oldestReadySeconds,
  );
  counted(
    "bowline_agents",
    "Agents of the installation, by state; revoked and retired ones left out.",
    "state",
    (census) => census.agents,
  );
  single("bowline_agents_offline", "Enrolled agents without a session.", (census) => census.agentsOffline);
  counted(
    "bowline_deployments",
    "Deployments that are held, or have drifted.",
    "condition",
    (census) => census.deployments,
  );
  single(
    "bowline_events_lag_seconds",
    "Age of the oldest event that no watch can see yet.",
    (census) => census.eventsLagSeconds,
  );
  single(
    "bowline_census_age_seconds",
    "Age of the figures that are counted in the database.",
    (census) => census.ageSeconds,
  );
}
