/**
 * This replica's lease: one row, renewed in one statement.
 *
 * E6: a passed lease changes nothing until a sweeper ends that replica's
 *     sessions, and a sweeper acts only after its own renewals have succeeded
 *     without a gap for lease plus grace (`unbrokenMs`). A replica that was
 *     paused has a gap as well as one whose database was away.
 */
import type { Clock } from "@bowline/kernel";
import { sql } from "kysely";
import type { Logger } from "pino";
import type { Db } from "../platform/transactions.ts";

export interface LeaseSettings {
  replicaId: string;
  address: string;
  serverVersion: string;
  leaseMs: number;
  leaseGraceMs: number;
}

export interface Lease {
  /** Writes the row. Before anything is served; throws what the database says. */
  take(): Promise<void>;
  /** Renews until `signal` aborts, and calls `renewed` after each success. Never throws. */
  run(renewed: () => Promise<void>, signal: AbortSignal): Promise<void>;
  /** Gives it back, so that others needn't wait for its end. It is not renewed any more. */
  giveBack(): Promise<void>;
  /** For how long renewals have succeeded without a gap; 0 after one that failed. */
  unbrokenMs(): number;
  /** Since it was renewed last. */
  ageMs(): number;
  /** True until the agents have had time to say again what a gap kept from the database. */
  recovering(): boolean;
  /** Other replicas with a lease that has not passed; where the database is away, as it was last known. */
  others(): Promise<number>;
}

/** A third of a lease: two renewals may fail before it passes. Never rarer than what is to be noticed elsewhere (a revoked agent). */
const renewEveryMs = 5_000;
/** A replica that is alone is gone within 5 s, also where its database is away. */
const countWithinMs = 1_000;
/** After a renewal that failed. */
const tryAgainMs = 1_000;

export function createLease(db: Db, settings: LeaseSettings, { clock, log }: { clock: Clock; log: Logger }): Lease {
  const { replicaId, leaseMs } = settings;
  const everyMs = Math.min(renewEveryMs, leaseMs / 3);
  let unbrokenSince: number | undefined;
  let renewedAt = clock.monotonicMs();
  let gapEndedAt: number | undefined;
  let othersKnown = 0;
  let givenBack = false;
  let underWay: Promise<void> = Promise.resolve();

  function renew(): Promise<void> {
    return (underWay = underWay.catch(() => undefined).then(renewNow)); // its caller was told
  }

  async function renewNow(): Promise<void> {
    if (givenBack) return;
    const asked = clock.monotonicMs();
    try {
      const { rows } = await sql<{ others: number }>`
        WITH mine AS (
          INSERT INTO replicas (id, address, server_version, lease_until)
          VALUES (${replicaId}, ${settings.address}, ${settings.serverVersion}, now() + make_interval(secs => ${leaseMs / 1000}))
          ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, address = excluded.address)
        SELECT count(*)::int AS others FROM replicas WHERE id <> ${replicaId} AND lease_until > now()`.execute(db);
      othersKnown = rows[0]?.others ?? 0;
    } catch (error) {
      unbrokenSince = undefined; // E6: a gap
      throw error;
    }
    const now = clock.monotonicMs();
    if (isBroken()) {
      unbrokenSince = now; // E6: it may have passed, whatever the reason
      gapEndedAt = now;
    }
    renewedAt = asked; // the lease runs from some moment between the two
  }

  /** Also where a pause of this process is over and the next renewal has not come yet. */
  function isBroken(): boolean {
    return unbrokenSince === undefined || clock.monotonicMs() - renewedAt > leaseMs;
  }

  return {
    async take() {
      renewedAt = clock.monotonicMs();
      await renew();
      gapEndedAt = undefined; // a start is no gap: nothing was waiting for this replica
    },
    async run(renewed, signal) {
      let waitMs = everyMs;
      while (!signal.aborted) {
        await clock.sleep(waitMs, signal);
        if (signal.aborted || givenBack) return;
        try {
          await renew();
          waitMs = everyMs;
          await renewed();
        } catch (error) {
          waitMs = Math.min(everyMs, tryAgainMs);
          if (!signal.aborted) log.warn({ error }, "the replica's lease could not be renewed; tried again");
        }
      }
    },
    async giveBack() {
      givenBack = true;
      await underWay.catch(() => undefined); // else it would write the row again
      await db.deleteFrom("replicas").where("id", "=", replicaId).execute();
    },
    ageMs: () => clock.monotonicMs() - renewedAt,
    unbrokenMs: () => (isBroken() ? 0 : clock.monotonicMs() - (unbrokenSince ?? 0)),
    recovering: () =>
      isBroken() || (gapEndedAt !== undefined && clock.monotonicMs() - gapEndedAt < settings.leaseGraceMs),
    async others() {
      const enough = new AbortController();
      await Promise.race([
        renew().catch((error: unknown) => log.warn({ error }, "other replicas could not be counted")),
        clock.sleep(countWithinMs, enough.signal),
      ]);
      enough.abort();
      return othersKnown;
    },
  };
}
