/**
 * Another history of the database begins: after a restore, a snapshot that was
 * put back, or a failover that lost its tail.
 *
 * I1: no number is used for two histories: the incarnation grows above the one
 *     that is restored, and with the time, so that the same backup restored
 *     twice makes two.
 * I2: nothing that was signed or handed out in a lost history is taken: signing
 *     keys are new, registration tokens that are not spent are void.
 * I3: events of the new history stand above every position of a lost one: a
 *     watch that is resumed with a cursor from there starts again (CURSOR_EXPIRED).
 * I4: nothing is dispatched until an operator confirms. A revocation that got
 *     lost with the tail can be made anew before.
 */
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { systemPrincipal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { type Db, transact, type Work } from "../platform/transactions.ts";

export interface Restored {
  /** Of the history before. */
  from: number;
  incarnation: number;
  /** Registration tokens that could still have been used. */
  voidedTokens: number;
  /** Sessions that were open. */
  endedSessions: number;
}

/** More events than there are in the minute that two incarnations are apart at least; positions stay exact in a double. */
const positionsPerIncarnation = 100_000_000;

/** Also while servers run on it: they notice with the next opening and claim. */
export async function markRestored(db: Db, events: Events): Promise<Restored> {
  return transact(db, (work) => markRestoredIn(work, events));
}

/** In the transaction of a restore. */
export async function markRestoredIn(work: Work, events: Events): Promise<Restored> {
  const { tx } = work;
  // The sessions' rows first, as everybody takes them before what is bound to them.
  const sessions = await tx
    .updateTable("sessions")
    .set({ state: "ENDED", ended_at: sql<Date>`now()`, end_reason: "RESTORED" })
    .where("state", "<>", "ENDED")
    .returning("agent_id")
    .execute();
  // What "session-ended" does to each command: it only unbinds (E2).
  await sql`UPDATE command_states SET bound_epoch = NULL, unbound_at = now(), updated_at = now()
    WHERE bound_epoch IS NOT NULL AND state IN ('ASSIGNED', 'RUNNING', 'CANCELLING')`.execute(tx);
  const { incarnation: from } = await tx
    .selectFrom("installation")
    .select("incarnation")
    .forUpdate()
    .executeTakeFirstOrThrow();
  const { incarnation } = await tx
    .updateTable("installation")
    .set({
      incarnation: sql<number>`greatest(incarnation + 1, floor(extract(epoch FROM now()) / 60)::int)`, // I1
      dispatch_held_at: sql<Date>`now()`, // I4
    })
    .returning("incarnation")
    .executeTakeFirstOrThrow();
  const above = sql<string>`${incarnation} * ${positionsPerIncarnation}::bigint`; // I3
  await sql`SELECT setval('event_position', greatest(last_value, ${above})) FROM event_position`.execute(tx);
  await sql`UPDATE event_floor SET position = greatest(position, ${above})`.execute(tx);
  await tx.deleteFrom("signing_keys").execute(); // I2
  const voided = await sql`UPDATE registration_tokens SET revoked_at = now()
    WHERE revoked_at IS NULL AND uses < max_uses AND expires_at > now()`.execute(tx);
  const restored: Restored = {
    from,
    incarnation,
    voidedTokens: Number(voided.numAffectedRows ?? 0n),
    endedSessions: sessions.length,
  };
  await audit(
    events,
    work,
    { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } },
    {
      action: "installation.restored",
      resourceKind: "installation",
      resourceId: "installation",
      organisationId: "",
      before: { incarnation: from },
      after: { ...restored },
    },
  );
  return restored;
}
