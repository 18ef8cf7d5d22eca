/**
 * What a replica does by the clock: its lease, missing receipts, the sweep of commands, sessions of replicas that are gone.
 *
 * E6: a passed lease changes nothing until a sweeper ends that replica's
 *     sessions, and a sweeper acts only after its own renewals have succeeded
 *     without a gap for lease plus grace.
 */
import type { Clock } from "@bowline/kernel";
import { sql } from "kysely";
import { countMissingReceipts, type EnginePorts, missingReceipts, sweep } from "../commands/index.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { EndReason, LiveSessions } from "./live.ts";
import { endSession } from "./open.ts";

export interface UpkeepSettings {
  replicaId: string;
  address: string;
  serverVersion: string;
  leaseMs: number;
  leaseGraceMs: number;
}

const everyMs = 1_000;
const leaseEveryMs = 5_000;
/** Sweep rounds per turn: a backlog after an outage must not keep the rest from its turn. */
const roundsPerTurn = 20;

/** Writes this replica's lease. Called once before anything else, then by `runUpkeep`. */
export async function renewLease(ports: EnginePorts, settings: UpkeepSettings): Promise<void> {
  await sql`
    INSERT INTO replicas (id, address, server_version, lease_until)
    VALUES (${settings.replicaId}, ${settings.address}, ${settings.serverVersion}, now() + make_interval(secs => ${settings.leaseMs / 1000}))
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, address = excluded.address`.execute(ports.db);
}

/** Gives the lease back, so that others needn't wait for its end. */
export async function returnLease(ports: EnginePorts, replicaId: string): Promise<void> {
  await ports.db.deleteFrom("replicas").where("id", "=", replicaId).execute();
}

/** The server that holds an embedded database is alone: whatever sessions are open are of a life before. */
export async function endOrphans(ports: EnginePorts, replicaId: string): Promise<void> {
  await ports.db.deleteFrom("replicas").where("id", "<>", replicaId).execute();
  const rows = await ports.db
    .selectFrom("sessions")
    .select(["agent_id", "epoch"])
    .where("state", "<>", "ENDED")
    .where("replica_id", "<>", replicaId)
    .execute();
  for (const row of rows) await endSession(ports, row.agent_id, row.epoch, "REPLICA_LOST");
}

export async function runUpkeep(
  ports: EnginePorts,
  settings: UpkeepSettings,
  parts: { live: LiveSessions; dispatcher: Dispatcher; clock: Clock; renewed: () => void },
  signal: AbortSignal,
): Promise<void> {
  const { live, dispatcher, clock } = parts;
  let renewedSince = clock.monotonicMs();
  let leaseAt = 0;
  while (!signal.aborted) {
    await clock.sleep(everyMs, signal);
    if (signal.aborted) return;
    try {
      if (clock.monotonicMs() >= leaseAt) {
        await renewLease(ports, settings);
        parts.renewed();
        leaseAt = clock.monotonicMs() + leaseEveryMs;
        await endSuperseded(ports, live);
        if (clock.monotonicMs() - renewedSince >= settings.leaseMs + settings.leaseGraceMs)
          await endOfLostReplicas(ports, settings); // E6
        await askForReceipts(ports, settings.replicaId, parts);
      }
      for (let round = 0; round < roundsPerTurn && (await sweep(ports)) > 0; round += 1);
    } catch (error) {
      renewedSince = clock.monotonicMs(); // a gap: whoever could not renew ends nobody
      if (!signal.aborted) ports.log.warn({ error }, "upkeep failed; tried again");
    }
  }

  async function askForReceipts(
    engine: EnginePorts,
    replicaId: string,
    { live: sessions }: typeof parts,
  ): Promise<void> {
    for (const missing of await missingReceipts(engine, replicaId)) {
      const session = sessions.of(missing.agentId);
      if (session?.phase !== "serving" || session.epoch !== missing.epoch) continue;
      if (missing.tooLong) {
        await countMissingReceipts(engine, missing.agentId, missing.epoch);
        session.close("NO_RECEIPT");
      } else await dispatcher.pushUnreceipted(session);
    }
  }
}

/** Sessions that were ended elsewhere (revoked, superseded on another replica), or polled there, are let go here. */
export async function endSuperseded(
  ports: EnginePorts,
  live: LiveSessions,
  agentIds?: readonly string[],
): Promise<void> {
  const here = agentIds === undefined ? [...live.all()] : agentIds.flatMap((id) => live.of(id) ?? []);
  if (here.length === 0) return;
  const rows = await ports.db
    .selectFrom("sessions")
    .select(["agent_id", "epoch", "state", "end_reason", "replica_id"])
    .where(
      "agent_id",
      "in",
      here.map((session) => session.agentId),
    )
    .execute();
  const byAgent = new Map(rows.map((row) => [row.agent_id, row]));
  for (const session of here) {
    const row = byAgent.get(session.agentId);
    if (row === undefined || row.end_reason === "REVOKED") session.close("REVOKED");
    else if (row.end_reason === "RETIRED" || row.end_reason === "CONFLICT") session.close(row.end_reason);
    else if (row.epoch > session.epoch) {
      session.close("SUPERSEDED", { message: { case: "superseded", value: { epoch: row.epoch } } });
    } else if (row.state === "ENDED") session.close(asEndReason(row.end_reason));
    else if (row.epoch < session.epoch) session.close("RESTORED"); // the database went back under this server
    // A poll brought it to another replica, whose it is now: nothing is recorded of this end.
    else if (session.heldBy !== undefined && session.heldBy !== row.replica_id) session.close("REPLICA_LOST");
  }
}

/** Its own reason where another replica, or a restore, has written one that says more. */
function asEndReason(reason: string): EndReason {
  return reason === "RESTORED" || reason === "DECIDED" ? reason : "REPLICA_LOST";
}

async function endOfLostReplicas(ports: EnginePorts, settings: UpkeepSettings): Promise<void> {
  const { rows } = await sql<{ agent_id: string; epoch: number }>`
    SELECT s.agent_id, s.epoch FROM sessions AS s
    WHERE s.state <> 'ENDED' AND s.replica_id <> ${settings.replicaId} AND NOT EXISTS (
      SELECT 1 FROM replicas AS r WHERE r.id = s.replica_id
      AND r.lease_until + make_interval(secs => ${settings.leaseGraceMs / 1000}) > now())
    LIMIT 500`.execute(ports.db);
  for (const row of rows) await endSession(ports, row.agent_id, row.epoch, "REPLICA_LOST");
}
