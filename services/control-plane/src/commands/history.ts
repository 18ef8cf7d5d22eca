/**
 * Ended commands leave the tables that every claim reads, once a newer wish has
 * replaced theirs; the newest of each deployment stays there, because it says
 * how its deployment stands, and can be retried.
 *
 * H1: a command that has left has ended for good; what an agent still says of
 *     it is answered as before.
 * H2: a page is looked at once per round of all pages, so that what stays is
 *     not looked at again and again.
 */
import { sql } from "kysely";
import type { HistoryStep } from "../platform/history.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import type { LockedCommand } from "./ports.ts";

/** Repeated results, and people who look at what just ended, find it among the newest. */
const staysMs = 3_600_000;
/** Commands that one step looks at. */
const pageSize = 1_000;
/** Deployments whose old specs one step looks for. */
const deploymentsAtOnce = 500;

/** Moves ended commands to `ended_commands`; those older than `keepMs` go at once. */
export function movesEnded(keepMs: number): HistoryStep {
  let place = { at: "-infinity", id: "" }; // H2
  return {
    deed: "command_moved",
    async run(work) {
      const page = await movePage(work, keepMs, place);
      const more = page.looked === pageSize && page.at !== null;
      place = more ? { at: page.at ?? "", id: page.id ?? "" } : { at: "-infinity", id: "" };
      return { done: page.moved, more };
    },
  };
}

interface Page {
  looked: number;
  moved: number;
  at: string | null;
  id: string | null;
}

async function movePage(work: Work, keepMs: number, place: { at: string; id: string }): Promise<Page> {
  const { rows } = await sql<Page>`
    WITH page AS MATERIALIZED (
      SELECT command_id, ended_at FROM command_states
      WHERE ended_at IS NOT NULL AND ended_at < now() - make_interval(secs => ${staysMs / 1000})
        AND (ended_at, command_id) > (${place.at}::timestamptz, ${place.id})
      ORDER BY ended_at, command_id LIMIT ${pageSize}
    ), old AS MATERIALIZED (
      SELECT s.command_id FROM page JOIN command_states AS s ON s.command_id = page.command_id
        JOIN commands AS c ON c.id = s.command_id JOIN deployments AS d ON d.id = s.deployment_id
      WHERE (d.generation > c.generation OR d.is_absent) AND s.domain_error = ''
      ORDER BY s.command_id FOR UPDATE OF s SKIP LOCKED
    ), progress AS (
      DELETE FROM command_progress AS p USING old WHERE p.command_id = old.command_id
    ), states AS (
      DELETE FROM command_states AS s USING old WHERE s.command_id = old.command_id RETURNING s.*
    ), gone AS (
      DELETE FROM commands AS c USING old WHERE c.id = old.command_id RETURNING c.*
    ), moved AS (
      INSERT INTO ended_commands (id, deployment_id, agent_id, cluster_id, organisation_id, generation, digest,
        product_publish_id, owner_kind, owner_id, is_removal, reduces, max_retries, run_timeout_ms, retry_of, created_by,
        created_at, priority, state, attempt, failures, due_at, assigned_at, received_at, ended_at, outcome_attempt,
        reason, message, superseded_by, late_outcome, domain_error, revision, rollout_id)
      SELECT c.id, c.deployment_id, c.agent_id, c.cluster_id, c.organisation_id, c.generation, c.digest,
        c.product_publish_id, c.owner_kind, c.owner_id, c.is_removal, c.reduces, c.max_retries, c.run_timeout_ms,
        c.retry_of, c.created_by, c.created_at, s.priority, s.state, s.attempt, s.failures, s.due_at, s.assigned_at,
        s.received_at, s.ended_at, s.outcome_attempt, s.reason, s.message, s.superseded_by, s.late_outcome, s.domain_error,
        c.revision, c.rollout_id
      FROM gone AS c JOIN states AS s ON s.command_id = c.id
      WHERE s.ended_at >= now() - make_interval(secs => ${keepMs / 1000})
    )
    SELECT (SELECT count(*)::int FROM page) AS looked, (SELECT count(*)::int FROM gone) AS moved,
      last.ended_at::text AS at, last.command_id AS id
    FROM (SELECT 1) AS one LEFT JOIN LATERAL (
      SELECT * FROM page ORDER BY ended_at DESC, command_id DESC LIMIT 1) AS last ON true`.execute(work.tx);
  return rows[0] ?? { looked: 0, moved: 0, at: null, id: null };
}

/**
 * Deletes specs that are older than `keepMs`, below what is wanted and below what was observed, and of no command that
 * is still among the newest: nothing can ask for them any more.
 */
export function deletesSpecs(keepMs: number): HistoryStep {
  let after = ""; // H2
  return {
    deed: "generation_deleted",
    async run({ tx }) {
      const { rows } = await sql<{ deleted: number; looked: number; last: string | null }>`
        WITH page AS MATERIALIZED (
          SELECT id, CASE WHEN is_absent THEN generation ELSE least(generation, observed_generation) END AS floor
          FROM deployments WHERE id > ${after} ORDER BY id LIMIT ${deploymentsAtOnce}
        ), gone AS (
          DELETE FROM deployment_generations AS g USING page
          WHERE g.deployment_id = page.id AND g.generation < page.floor
            AND g.created_at < now() - make_interval(secs => ${keepMs / 1000})
            AND NOT EXISTS (SELECT 1 FROM commands AS c WHERE c.deployment_id = g.deployment_id AND c.generation = g.generation)
          RETURNING 1
        )
        SELECT (SELECT count(*)::int FROM gone) AS deleted, (SELECT count(*)::int FROM page) AS looked,
          (SELECT max(id) FROM page) AS last`.execute(tx);
      const page = rows[0];
      const full = page?.looked === deploymentsAtOnce;
      after = full ? (page?.last ?? "") : "";
      return { done: page?.deleted ?? 0, more: full };
    },
  };
}

/** Those of these commands that have left, as the engine works with commands (H1). */
export async function findEnded(tx: Tx, ids: readonly string[]): Promise<LockedCommand[]> {
  if (ids.length === 0) return [];
  const rows = await tx
    .selectFrom("ended_commands")
    .select([
      "id",
      "deployment_id as deploymentId",
      "agent_id as agentId",
      "cluster_id as clusterId",
      "organisation_id as organisationId",
      "generation",
      "product_publish_id as productPublishId",
      "owner_kind as ownerKind",
      "owner_id as ownerId",
      "state",
      "attempt",
      "failures",
      "is_removal as isRemoval",
      "reduces",
      "max_retries as maxRetries",
      "outcome_attempt as outcomeAttempt",
    ])
    .where("id", "in", [...ids])
    .orderBy("id")
    .execute();
  return rows.map((row) => ({
    ...row,
    boundEpoch: null,
    everReceived: true,
    sessionsWithoutReceipt: 0,
    cancelReason: null,
    newerWaits: false,
    timeLeft: false,
    traceParent: "",
  }));
}
