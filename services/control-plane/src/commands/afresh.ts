/**
 * An agent begins anew on a host that has nothing of it, comes back with less
 * than it had, or after what it was to do has lapsed: what it has to run is
 * wished once more, at a generation of its own.
 *
 * A1: what was observed at the host before counts no more, nor do the numbers
 *     of its observations: the new host counts from one.
 * A2: what was in flight stays so until the new host's Sync proves it absent
 *     (E7); the new wish waits behind it.
 * A3: an agent that comes back with less than it had (an older disk, no journal) is behind, so nobody has to decide
 *     (disputes are about what is ahead): what the server has recorded as
 *     converged and a complete Sync does not have is wished again. What has an
 *     open command gets it from that.
 * A4: what lapsed only because the agent stayed away is wished again when it is back, where its owner follows returns.
 *     Once per absence: the new command ends as any other, and only another absence makes it lapse again. Found by
 *     why the deployment is HELD, which the next wish clears. Removals never lapse (C3).
 */
import { sql } from "kysely";
import { forgetObserved, lockDeployments, lockPresent, restartObservations } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
import type { EnginePorts } from "./ports.ts";
import { sessionEnded } from "./reconcile.ts";
import { again } from "./requests.ts";

/**
 * Unbinds what was bound to the session `epoch` and converges every deployment of the agent again, except what is being
 * removed. The caller has ended the session. Returns how many are converged.
 */
export async function beginAfresh(
  ports: EnginePorts,
  work: Work,
  agent: { id: string; epoch: number | undefined; createdBy: string },
): Promise<number> {
  const present = await lockPresent(work.tx, agent.id); // E3: before their commands
  if (agent.epoch !== undefined) await sessionEnded(ports, work, agent.id, agent.epoch);
  const wanted = await forgetObserved(work.tx, present); // A1
  await wishAgain(ports, work, wanted, { createdBy: agent.createdBy, fromNothing: true });
  return wanted.length;
}

/** `created_by` of commands for what has lapsed while the agent was away. */
export const afterAbsence = "agent-returned";

/** Why a command ended that nobody carried out because its agent stayed away. */
export const absenceReasons: readonly string[] = ["OFFLINE_LIFE_EXCEEDED", "AGENT_AWAY_TOO_LONG"];

/** A4. The caller holds the session's row. Returns how many are converged. */
export async function convergeLapsed(ports: EnginePorts, work: Work, agentId: string): Promise<number> {
  const seen = await lapsedOf(ports, work, [agentId]);
  if (seen.length === 0) return 0; // nearly every time, without a lock
  await lockDeployments(
    work.tx,
    seen.map(({ id }) => id),
  );
  const lapsed = (await lapsedOf(ports, work, [agentId])).map(({ id }) => id); // E3
  await wishAgain(ports, work, lapsed, { createdBy: afterAbsence, fromNothing: false });
  return lapsed.length;
}

/** In order of id. Not what only the agent has the bytes of. */
async function lapsedOf(ports: EnginePorts, work: Work, agentIds: readonly string[]) {
  const kinds = [...ports.owners].filter(([, owner]) => owner.followsReturns === true).map(([kind]) => kind);
  if (kinds.length === 0) return [];
  const { rows } = await sql<{ id: string; agent_id: string }>`
    SELECT d.id, d.agent_id FROM deployments AS d
    JOIN deployment_generations AS g ON g.deployment_id = d.id AND g.generation = d.generation AND octet_length(g.spec) > 0
    WHERE d.agent_id = ANY(${[...agentIds]}::text[]) AND NOT d.is_absent AND d.kind = ANY(${kinds}::text[])
      AND d.held_reason = ANY(${[...absenceReasons]}::text[]) ORDER BY d.id`.execute(work.tx);
  return rows;
}

/** What an agent told in a complete Sync that names everything it has. */
export interface Told {
  agentId: string;
  journalWhole: boolean;
  /** What runs, what is under way, and the highest generation of everything else. */
  told: readonly { deploymentId: string; generation: number }[];
}

/** `created_by` of commands for what a journal has lost. */
export const afterLostJournal = "lost-journal";

/** A3. The caller holds the session's row. Returns how many are converged. */
export async function convergeLost(ports: EnginePorts, work: Work, sync: Told): Promise<number> {
  if (sync.journalWhole && (await lostOf(work, [sync])).length === 0) return 0; // nearly every time, without a lock
  const present = await lockPresent(work.tx, sync.agentId);
  if (present.length === 0) return 0;
  await restartObservations(work.tx, present); // an older journal counts them from an older number
  const lost = (await lostOf(work, [sync])).map(({ id }) => id);
  await wishAgain(ports, work, lost, { createdBy: afterLostJournal, fromNothing: false });
  return lost.length;
}

/**
 * Which agents' Syncs have to be answered one by one: something of theirs is in flight, has lapsed, or may be lost. The caller
 * holds their sessions' rows, so that nothing comes to be in flight meanwhile. Takes no lock.
 */
export async function unsettled(
  ports: EnginePorts,
  work: Work,
  syncs: readonly (Told & { tellsAll: boolean })[],
): Promise<Set<string>> {
  const all = syncs.filter(({ tellsAll }) => tellsAll);
  const whole = all.filter(({ journalWhole }) => journalWhole);
  const ids = (some: readonly Told[]): string[] => some.map(({ agentId }) => agentId);
  const { rows } = await sql<{ agent_id: string }>`
    SELECT agent_id FROM command_states
    WHERE agent_id = ANY(${ids(syncs)}::text[]) AND state IN ('ASSIGNED', 'RUNNING', 'CANCELLING')
    UNION SELECT agent_id FROM deployments
    WHERE agent_id = ANY(${ids(all.filter((one) => !one.journalWhole))}::text[]) AND NOT is_absent`.execute(work.tx);
  const lost = await lostOf(work, whole);
  const lapsed = await lapsedOf(ports, work, ids(syncs));
  return new Set([...rows, ...lost, ...lapsed].map((row) => row.agent_id));
}

/** In order of id. Not what only the agent has the bytes of. */
async function lostOf(work: Work, syncs: readonly Told[]): Promise<{ id: string; agent_id: string }[]> {
  if (syncs.length === 0) return [];
  const told = syncs.flatMap((sync) => sync.told.map((one) => ({ ...one, agentId: sync.agentId })));
  const { rows } = await sql<{ id: string; agent_id: string }>`
    SELECT d.id, d.agent_id FROM deployments AS d
    JOIN deployment_generations AS g ON g.deployment_id = d.id AND g.generation = d.generation AND octet_length(g.spec) > 0
    LEFT JOIN (
      SELECT agent_id, id, max(generation) AS generation FROM unnest(${told.map((one) => one.agentId)}::text[],
        ${told.map((one) => one.deploymentId)}::text[], ${told.map((one) => one.generation)}::int[])
        AS t (agent_id, id, generation)
      GROUP BY agent_id, id) AS told ON told.id = d.id AND told.agent_id = d.agent_id
    WHERE d.agent_id = ANY(${syncs.map(({ agentId }) => agentId)}::text[]) AND NOT d.is_absent AND d.observed_generation > coalesce(told.generation, 0)
      AND NOT EXISTS (SELECT 1 FROM command_states WHERE deployment_id = d.id
        AND state IN ('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT'))
    ORDER BY d.id`.execute(work.tx);
  return rows;
}

async function wishAgain(
  ports: EnginePorts,
  work: Work,
  deploymentIds: readonly string[],
  how: { createdBy: string; fromNothing: boolean },
): Promise<void> {
  const last = await lastCommands(work, deploymentIds);
  for (const deploymentId of deploymentIds) {
    await again(ports, work, deploymentId, { ...last.get(deploymentId), ...how });
  }
}

/** How the newest command of each deployment behaves, so that the next one behaves alike. */
async function lastCommands(work: Work, deploymentIds: readonly string[]) {
  if (deploymentIds.length === 0) return new Map<string, never>();
  const rows = await work.tx
    .selectFrom("commands as c")
    .innerJoin("command_states as s", "s.command_id", "c.id")
    .distinctOn("c.deployment_id")
    .selectAll("c")
    .select("s.priority")
    .where("c.deployment_id", "in", [...deploymentIds])
    .orderBy("c.deployment_id")
    .orderBy("c.generation", "desc")
    .execute();
  return new Map(
    rows.map((row) => [
      row.deployment_id,
      {
        productPublishId: row.product_publish_id,
        ownerKind: row.owner_kind,
        revision: row.revision,
        rolloutId: row.rollout_id,
        limits: {
          maxRetries: row.max_retries,
          runTimeoutMs: row.run_timeout_ms,
          graceMs: row.grace_ms,
          cancelLimitMs: row.cancel_limit_ms,
          offlineLifeMs: row.offline_life_ms,
          priority: row.priority,
        },
      },
    ]),
  );
}
