/**
 * Figures that only the database has: of the installation, not of one replica.
 *
 * C1: counted at most once per `everyMs`, however many scrape.
 * C2: every count is bounded: it follows an index of what is open or held, and
 *     stops at `atMost` rows. A figure at that bound means "at least".
 * C3: a database that does not answer costs these figures, not the scrape.
 */
import { sql } from "kysely";
import type { Db } from "./transactions.ts";

export interface Census {
  /** Open commands by state. */
  commands: Record<string, number>;
  oldestReadySeconds: number;
  agents: Record<string, number>;
  agentsOffline: number;
  deployments: { held: number; drifted: number };
  eventsLagSeconds: number;
  ageSeconds: number;
}

/** Prometheus scrapes every 15 to 60 s; two of them share a count. */
const everyMs = 10_000;
const atMost = 100_000;
/** A scrape gives up after 10 s as a rule; it gets the other figures then. */
const answerWithinMs = 2_000;

export function createCensus(db: Db): () => Promise<Census | undefined> {
  let last: { figures: Omit<Census, "ageSeconds">; at: number } | undefined;
  let askedAt = -Infinity;
  let under: Promise<void> | undefined;

  async function count(): Promise<void> {
    try {
      last = { figures: await read(db), at: performance.now() };
    } catch {
      // C3. `bowline_census_age_seconds` grows, and the pool's own figures say why.
    } finally {
      under = undefined;
    }
  }

  return async () => {
    if (under === undefined && performance.now() - askedAt >= everyMs) {
      askedAt = performance.now();
      under = count();
    }
    if (under !== undefined) await within(under, answerWithinMs);
    return last === undefined ? undefined : { ...last.figures, ageSeconds: (performance.now() - last.at) / 1000 };
  };
}

async function within(work: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([work, new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))]);
  clearTimeout(timer);
}

async function read(db: Db): Promise<Omit<Census, "ageSeconds">> {
  const { rows } = await sql<{ kind: string; label: string; figure: number }>`
    SELECT 'command' AS kind, state AS label, count(*)::float8 AS figure FROM (
      SELECT state FROM command_states
      WHERE state IN ('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT') LIMIT ${atMost}) AS open GROUP BY state
    UNION ALL
    SELECT 'ready', '', coalesce(extract(epoch FROM now() - min(r.updated_at)), 0) FROM (
      SELECT s.updated_at FROM sessions AS o JOIN command_states AS s ON s.agent_id = o.agent_id
      WHERE o.state = 'SERVING' AND s.state = 'READY' LIMIT ${atMost}) AS r
    UNION ALL
    SELECT 'agent', state, count(*) FROM (
      SELECT state FROM agents WHERE state NOT IN ('REVOKED', 'RETIRED') LIMIT ${atMost}) AS a GROUP BY state
    UNION ALL
    SELECT 'offline', '', count(*) FROM (
      SELECT 1 FROM agents AS a WHERE a.state = 'ENROLLED' AND NOT EXISTS (
        SELECT 1 FROM sessions AS o WHERE o.agent_id = a.id AND o.state <> 'ENDED') LIMIT ${atMost}) AS f
    UNION ALL
    SELECT 'deployment', 'held', count(*) FROM (
      SELECT 1 FROM deployments WHERE held_reason <> '' AND NOT is_absent LIMIT ${atMost}) AS h
    UNION ALL
    SELECT 'deployment', 'drifted', count(*) FROM (
      SELECT 1 FROM deployments WHERE drifted AND NOT is_absent LIMIT ${atMost}) AS d
    UNION ALL
    SELECT 'events', '', coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM (
      (SELECT created_at FROM events WHERE position IS NULL ORDER BY id LIMIT 1)
      UNION ALL (SELECT created_at FROM event_sets ORDER BY id LIMIT 1)) AS e`.execute(db);
  const of = (kind: string): Record<string, number> =>
    Object.fromEntries(rows.filter((row) => row.kind === kind).map(({ label, figure }) => [label, Number(figure)]));
  const deployments = of("deployment");
  return {
    commands: of("command"),
    oldestReadySeconds: of("ready")[""] ?? 0,
    agents: of("agent"),
    agentsOffline: of("offline")[""] ?? 0,
    deployments: { held: deployments["held"] ?? 0, drifted: deployments["drifted"] ?? 0 },
    eventsLagSeconds: Math.max(0, of("events")[""] ?? 0),
  };
}
