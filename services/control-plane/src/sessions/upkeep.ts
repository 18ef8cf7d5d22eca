/**
 * What a replica does by the clock: missing receipts, the sweep of commands,
 * sessions of replicas that are gone, and its own that have no stream.
 *
 * E6: see lease.ts. What blames a peer for its silence (a replica's lease, a
 *     missing receipt, a run that takes too long) waits until this replica's own
 *     renewals have been unbroken: a PostgreSQL that blinks ends nobody.
 */
import type { Clock } from "@bowline/kernel";
import { sql, type SqlBool } from "kysely";
import {
  closeWithoutReceiptAfterMs,
  countMissingReceipts,
  type EnginePorts,
  missingReceipts,
  sweep,
  tellApart,
} from "../commands/index.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { Lease, LeaseSettings } from "./lease.ts";
import type { EndReason, LiveSessions } from "./live.ts";
import { type Ending, endSessions } from "./ends.ts";

export interface UpkeepParts {
  live: LiveSessions;
  dispatcher: Dispatcher;
  lease: Lease;
  clock: Clock;
}

const everyMs = 1_000;
/** Owners that failed: a defect does not mend itself within seconds, a deploy of another version may. */
const tellEveryMs = 30_000;
/** Sweep rounds per turn: a backlog after an outage must not keep the rest from its turn. */
const roundsPerTurn = 20;
/** Twice the longest backoff of an agent: by then it is back, or away for a reason of its own. */
const agentsReturnWithinMs = 120_000;
/** Sessions of lost replicas that are ended per turn: several replicas share the work. */
const lostPerTurn = 200;

/** The server that holds an embedded database is alone: whatever sessions are open are of a life before. */
export async function endOrphans(ports: EnginePorts, replicaId: string): Promise<void> {
  await ports.db.deleteFrom("replicas").where("id", "<>", replicaId).execute();
  const rows = await ports.db
    .selectFrom("sessions")
    .select(["agent_id", "epoch"])
    .where("state", "<>", "ENDED")
    .where("replica_id", "<>", replicaId)
    .execute();
  await endSessions(ports, rows.map(lostReplicas));
}

function lostReplicas({ agent_id: agentId, epoch }: { agent_id: string; epoch: number }): Ending {
  return { agentId, epoch, reason: "REPLICA_LOST" };
}

/** Runs until `signal` aborts. What fails is told and tried again. */
export async function runUpkeep(
  ports: EnginePorts,
  settings: LeaseSettings,
  parts: UpkeepParts,
  signal: AbortSignal,
): Promise<void> {
  const { live, lease, clock } = parts;
  const forgotten = createForgotten();
  const renewed = async (): Promise<void> => {
    await endSuperseded(ports, live);
    await endForgotten(ports, settings.replicaId, live, forgotten);
    await askForReceipts(ports, settings.replicaId, parts);
  };
  const place = { from: "" };
  const apart = { from: "" };
  let tellAt = clock.monotonicMs();
  const turns = async (): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(everyMs, signal);
      if (signal.aborted) return;
      try {
        if (lease.unbrokenMs() >= settings.leaseMs + settings.leaseGraceMs) await endOfLostReplicas(ports, settings); // E6
        const blames = { silence: !lease.recovering(), absence: lease.unbrokenMs() >= agentsReturnWithinMs }; // E6
        for (let round = 0; round < roundsPerTurn && (await sweep(ports, { blames, place })) > 0; round += 1);
        if (clock.monotonicMs() >= tellAt) {
          tellAt = clock.monotonicMs() + tellEveryMs;
          await tellApart(ports, apart);
        }
      } catch (error) {
        if (!signal.aborted) ports.log.warn({ error }, "upkeep failed; tried again");
      }
    }
  };
  await Promise.all([lease.run(renewed, signal), turns()]);
}

async function askForReceipts(ports: EnginePorts, replicaId: string, parts: UpkeepParts): Promise<void> {
  const { live, dispatcher, lease } = parts;
  for (const missing of await missingReceipts(ports, replicaId)) {
    const session = live.of(missing.agentId);
    if (session?.phase !== "serving" || session.epoch !== missing.epoch) continue;
    if (missing.tooLong && lease.unbrokenMs() >= closeWithoutReceiptAfterMs) {
      await countMissingReceipts(ports, missing.agentId, missing.epoch);
      session.close("NO_RECEIPT");
    } else (await dispatcher.unreceipted(session)).push();
  }
}

/** Of a session that differs from what this replica holds; `epoch` null: there is none. */
interface SessionRow {
  agent_id: string;
  epoch: number | null;
  state: string;
  end_reason: string;
  replica_id: string;
}

/** Sessions that were ended elsewhere (revoked, superseded on another replica), or polled there, are let go here. */
export async function endSuperseded(
  ports: EnginePorts,
  live: LiveSessions,
  agentIds?: readonly string[],
): Promise<void> {
  const here = agentIds === undefined ? [...live.all()] : agentIds.flatMap((id) => live.of(id) ?? []);
  if (here.length === 0) return;
  const served = new Set(here.filter((session) => session.phase === "serving")); // before their rows are read
  // Nearly all are as they should be, so only those that differ come back; ids have no comma, and one text is quickly read.
  const { rows } = await sql<SessionRow>`
    SELECT h.agent_id, s.epoch, s.state, s.end_reason, s.replica_id
    FROM unnest(string_to_array(${here.map((session) => session.agentId).join(",")}, ','),
      string_to_array(${here.map((session) => session.epoch).join(",")}, ',')::int[],
      string_to_array(${here.map((session) => session.heldBy ?? "").join(",")}, ',')) AS h (agent_id, epoch, held_by)
    LEFT JOIN sessions AS s ON s.agent_id = h.agent_id
    WHERE s.agent_id IS NULL OR s.epoch <> h.epoch OR s.state <> 'SERVING' OR s.end_reason <> ''
      OR h.held_by <> '' AND s.replica_id <> h.held_by`.execute(ports.db);
  const byAgent = new Map(rows.map((row) => [row.agent_id, row]));
  for (const session of here) {
    const row = byAgent.get(session.agentId);
    if (row === undefined) continue;
    if (row.epoch === null || row.end_reason === "REVOKED") session.close("REVOKED");
    else if (row.end_reason === "RETIRED" || row.end_reason === "CONFLICT") session.close(row.end_reason);
    else if (row.epoch > session.epoch) {
      session.close("SUPERSEDED", { message: { case: "superseded", value: { epoch: row.epoch } } });
    } else if (row.state === "ENDED") session.close(asEndReason(row.end_reason));
    // The database went back under this server: to an older session, or to when this one was not served yet.
    else if (row.epoch < session.epoch || (row.state === "SYNCING" && served.has(session))) session.close("RESTORED");
    // A poll brought it to another replica, whose it is now: nothing is recorded of this end.
    else if (session.heldBy !== undefined && session.heldBy !== row.replica_id) session.close("REPLICA_LOST");
  }
}

/** Its own reason where another replica, or a restore, has written one that says more. */
function asEndReason(reason: string): EndReason {
  return reason === "RESTORED" || reason === "DECIDED" ? reason : "REPLICA_LOST";
}

/** Sessions in rows without a stream here, as `agent epoch poll`, at the last look. */
type Forgotten = { seen: Set<string> };
const createForgotten = (): Forgotten => ({ seen: new Set() });

/**
 * Ends this replica's sessions in rows whose stream ended while the database
 * was away. At the second look: a stream that opens has its row first.
 */
async function endForgotten(
  ports: EnginePorts,
  replicaId: string,
  live: LiveSessions,
  forgotten: Forgotten,
): Promise<void> {
  // As in endSuperseded: those that are here don't come back.
  const here = [...live.all()];
  const { rows } = await sql<{ agent_id: string; epoch: number; poll_number: number }>`
    SELECT s.agent_id, s.epoch, s.poll_number FROM sessions AS s
    LEFT JOIN unnest(string_to_array(${here.map((session) => session.agentId).join(",")}, ','),
      string_to_array(${here.map((session) => session.epoch).join(",")}, ',')::int[]) AS h (agent_id, epoch)
      ON h.agent_id = s.agent_id AND h.epoch = s.epoch
    WHERE s.replica_id = ${replicaId} AND s.state <> 'ENDED' AND h.agent_id IS NULL`.execute(ports.db);
  const before = forgotten.seen;
  forgotten.seen = new Set();
  const endings: Ending[] = [];
  for (const { agent_id: agentId, epoch, poll_number: since } of rows) {
    if (live.of(agentId)?.epoch === epoch) continue; // it came meanwhile
    const which = `${agentId} ${epoch} ${since}`;
    const held = { by: replicaId, since };
    if (before.has(which)) endings.push({ agentId, epoch, reason: "CONNECTION_LOST", held });
    else forgotten.seen.add(which);
  }
  await endSessions(ports, endings);
}

/** Ends sessions of replicas whose lease and grace have passed, and forgets such replicas. */
async function endOfLostReplicas(ports: EnginePorts, settings: LeaseSettings): Promise<void> {
  const grace = sql`make_interval(secs => ${settings.leaseGraceMs / 1000})`;
  // Asked again with each end: a replica that was paused may renew while others end its sessions.
  const lost = sql<SqlBool>`sessions.replica_id <> ${settings.replicaId} AND NOT EXISTS (
    SELECT 1 FROM replicas AS r WHERE r.id = sessions.replica_id AND r.lease_until + ${grace} > now())`;
  const rows = await ports.db
    .selectFrom("sessions")
    .select(["agent_id", "epoch"])
    .where("state", "<>", "ENDED")
    .where(lost)
    .orderBy("agent_id")
    .limit(lostPerTurn)
    .execute();
  await endSessions(ports, rows.map(lostReplicas), lost);
  if (rows.length > 0) ports.log.warn({ sessions: rows.length }, "ended sessions of replicas that are gone");
  await sql`
    DELETE FROM replicas AS r WHERE r.lease_until + ${grace} <= now() AND r.id <> ${settings.replicaId}
      AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.replica_id = r.id AND s.state <> 'ENDED')`.execute(ports.db);
}
