/** InstallationService. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { type Installation, InstallationSchema, InstallationService } from "@bowline/contract/installation";
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { type Db, transact, type Tx } from "../platform/transactions.ts";

export interface InstallationPorts {
  db: Db;
  events: Events;
  /** Commands may be claimed again. After the commit; other replicas find out by their poll. */
  dispatchResumed(): void;
}

export function registerInstallation(router: ConnectRouter, ports: InstallationPorts): void {
  router.service(InstallationService, {
    getInstallation: () => readInstallation(ports.db),
    confirmRestore: (_, context) => confirmRestore(ports, callerOf(context)),
  });
}

/** Since when nothing is dispatched because the database was restored; undefined: it is. */
export async function dispatchHeld(db: Db): Promise<Date | undefined> {
  const row = await db.selectFrom("installation").select("dispatch_held_at").executeTakeFirst();
  return row?.dispatch_held_at ?? undefined;
}

async function readInstallation(db: Db | Tx): Promise<Installation> {
  const row = await db
    .selectFrom("installation")
    .selectAll()
    .select(sql<number>`(SELECT count(*)::int FROM agents WHERE state = 'AWAITING_DECISION')`.as("awaiting"))
    .executeTakeFirstOrThrow();
  const held = row.dispatch_held_at;
  return create(InstallationSchema, {
    id: row.id,
    incarnation: row.incarnation,
    dispatchHeld: held !== null,
    ...(held === null ? {} : { dispatchHeldAt: timestampFromDate(held) }),
    agentsAwaitingDecision: row.awaiting,
  });
}

async function confirmRestore(ports: InstallationPorts, caller: Caller): Promise<Installation> {
  return transact(ports.db, async (work) => {
    const before = await work.tx
      .selectFrom("installation")
      .select(["id", "incarnation", "dispatch_held_at"])
      .forUpdate()
      .executeTakeFirstOrThrow();
    if (before.dispatch_held_at !== null) {
      await work.tx.updateTable("installation").set({ dispatch_held_at: null }).execute();
      await audit(ports.events, work, caller, {
        action: "installation.confirm-restore",
        resourceKind: "installation",
        resourceId: before.id,
        organisationId: "",
        before: { dispatchHeldAt: before.dispatch_held_at.toISOString(), incarnation: before.incarnation },
        after: { dispatchHeldAt: null },
      });
      work.after(() => ports.dispatchResumed());
    }
    return readInstallation(work.tx);
  });
}
