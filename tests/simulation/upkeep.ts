/** What a replica does by the clock: sessions/lease.ts and upkeep.ts of the product. */
import { type Server, silenceLimitMs } from "./server.ts";
import { endSession } from "./sessions.ts";
import { closeWithoutReceiptAfterMs, countMissingReceipts, mayBeDue, missingReceipts, sweep } from "./sweeps.ts";
import type { Tx } from "./store.ts";

const leaseMs = 15_000;
const leaseGraceMs = 30_000;
const renewEveryMs = 5_000;
const tryAgainMs = 1_000;
/** Half as often as in the product: each turn of each replica is an event. */
const turnEveryMs = 2_000;
const roundsPerTurn = 20;
const agentsReturnWithinMs = 120_000;

export function runUpkeep(replica: Server, orphan: () => void): void {
  const { process, engine, id } = replica;
  const { store } = engine;
  let unbrokenSince: number | undefined;
  let renewedAt = store.now;
  let gapEndedAt: number | undefined;
  let forgotten = new Set<string>();

  const isBroken = (): boolean => unbrokenSince === undefined || store.now - renewedAt > leaseMs;
  const unbrokenMs = (): number => (isBroken() ? 0 : store.now - (unbrokenSince ?? 0));
  const recovering = (): boolean => isBroken() || (gapEndedAt !== undefined && store.now - gapEndedAt < leaseGraceMs);

  async function renew(): Promise<void> {
    const asked = store.now;
    try {
      await store.write(process, "replicas", () => ({ id, leaseUntil: store.now + leaseMs }));
    } catch (error) {
      unbrokenSince = undefined; // E6: a gap
      throw error;
    }
    if (isBroken()) {
      unbrokenSince = store.now;
      gapEndedAt = store.now;
    }
    renewedAt = asked;
  }

  async function leases(): Promise<void> {
    let first = true;
    for (;;) {
      let waitMs = renewEveryMs;
      try {
        await renew();
        if (first) gapEndedAt = undefined; // a start is no gap
        first = false;
        await replica.endSuperseded();
        await endForgotten();
        await askForReceipts();
      } catch {
        waitMs = tryAgainMs;
      }
      await process.wait(waitMs);
    }
  }

  async function turns(): Promise<void> {
    for (;;) {
      await process.wait(turnEveryMs);
      for (const session of replica.live.values())
        if (store.now - session.heardAt > silenceLimitMs) session.close("HEARTBEAT_MISSED");
      try {
        if (unbrokenMs() >= leaseMs + leaseGraceMs) await endOfLostReplicas();
        const blames = { silence: !recovering(), absence: unbrokenMs() >= agentsReturnWithinMs };
        for (let round = 0; round < roundsPerTurn && mayBeDue(engine, blames); round += 1) {
          const { changed, orphans } = await sweep(engine, blames);
          for (let at = 0; at < orphans; at += 1) orphan();
          if (changed === 0) break;
        }
      } catch {
        // The database is away; the next turn looks again.
      }
    }
  }

  async function askForReceipts(): Promise<void> {
    for (const { agentId, epoch, tooLong } of await missingReceipts(engine, id)) {
      const session = replica.live.get(agentId);
      if (session?.phase !== "serving" || session.epoch !== epoch) continue;
      if (tooLong && unbrokenMs() >= closeWithoutReceiptAfterMs) {
        await countMissingReceipts(engine, agentId, epoch);
        session.close("NO_RECEIPT");
      } else await replica.pushUnreceipted(agentId, epoch);
    }
  }

  /** Sessions in rows without a stream here, at the second look. */
  async function endForgotten(): Promise<void> {
    const rows = await store.look(process, ({ sessions }) =>
      [...sessions.values()].filter((row) => row.replicaId === id && row.state !== "ENDED"),
    );
    const before = forgotten;
    forgotten = new Set();
    for (const { id: agentId, epoch } of rows) {
      if (replica.live.get(agentId)?.epoch === epoch) continue;
      const which = `${agentId} ${epoch}`;
      const held = (tx: Tx): boolean => tx.get("sessions", agentId)?.replicaId === id;
      if (before.has(which)) await endSession(engine, agentId, epoch, "CONNECTION_LOST", held);
      else forgotten.add(which);
    }
  }

  async function endOfLostReplicas(): Promise<void> {
    const lost = (replicas: Map<string, { leaseUntil: number }>, replicaId: string): boolean =>
      replicaId !== id && (replicas.get(replicaId)?.leaseUntil ?? -Infinity) + leaseGraceMs <= store.now;
    const rows = await store.look(process, ({ sessions, replicas }) =>
      [...sessions.values()].filter((row) => row.state !== "ENDED" && lost(replicas, row.replicaId)),
    );
    // Asked again with each end: a replica that was paused may renew while others end its sessions.
    for (const { id: agentId, epoch, replicaId } of rows)
      await endSession(engine, agentId, epoch, "REPLICA_LOST", (tx) => lost(tx.store.tables.replicas, replicaId));
  }

  void leases();
  void turns();
}
