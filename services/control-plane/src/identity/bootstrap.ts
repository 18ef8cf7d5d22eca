/**
 * The first start: the installation's row, the organisation `default`, and an
 * admin whose token the caller keeps.
 *
 * F1: the token is written before the commit: a crash between the two leaves a
 *     file that the next start writes anew, never an admin whose token is lost.
 * F2: of replicas that start at once, one does it.
 */
import { newToken } from "@bowline/auth";
import { newId } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, systemPrincipal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { type Db, transact, type Work } from "../platform/transactions.ts";
import { findOrganisation, insertServiceAccount, revokeServiceAccount } from "./queries.ts";

/** What the caller gives. */
export interface BootstrapPorts {
  events: Events;
  /** Keeps the admin's token where only its owner reads it. Throws: nothing is changed. */
  writeAdminToken(token: string): Promise<void>;
}

export interface Bootstrapped {
  installationId: string;
  incarnation: number;
  /** True where this call made the installation, and wrote the admin's token. */
  first: boolean;
}

/** The organisation of the first admin. */
export const defaultOrganisation = "default";
/** The service account whose token the first start writes. */
export const adminAccountName = "admin";
/** Any number that nobody else uses for advisory locks in this database (F2). */
const bootstrapLock = 7_310_003;

const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };

/**
 * Makes the installation, once; later calls only read it. Where the token's
 * file got lost since, `resetAdminToken` writes another.
 */
export async function bootstrap(db: Db, ports: BootstrapPorts): Promise<Bootstrapped> {
  return transact(db, async (work) => {
    await sql`SELECT pg_advisory_xact_lock(${bootstrapLock})`.execute(work.tx);
    const known = await work.tx.selectFrom("installation").select(["id", "incarnation"]).executeTakeFirst();
    if (known !== undefined) return { installationId: known.id, incarnation: known.incarnation, first: false };
    const installation = await work.tx
      .insertInto("installation")
      .values({ id: newId("inst") })
      .returning(["id", "incarnation"])
      .executeTakeFirstOrThrow();
    await issueAdmin(work, ports, "installation.create");
    return { installationId: installation.id, incarnation: installation.incarnation, first: true };
  });
}

/** Ends the first admin's token, where it still lives, and writes a new one that never expires. For whoever owns the machine. */
export async function resetAdminToken(db: Db, ports: BootstrapPorts): Promise<void> {
  await transact(db, (work) => resetAdminTokenIn(work, ports));
}

/** In the transaction of a restore. */
export async function resetAdminTokenIn(work: Work, ports: BootstrapPorts): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(${bootstrapLock})`.execute(work.tx);
  await issueAdmin(work, ports, "admin-token.reset");
}

async function issueAdmin(work: Work, ports: BootstrapPorts, action: string): Promise<void> {
  const { tx } = work;
  const organisation =
    (await findOrganisation(tx, defaultOrganisation)) ??
    (await tx
      .insertInto("organisations")
      .values({ id: newId("org"), name: defaultOrganisation, display_name: "Default" })
      .returningAll()
      .executeTakeFirstOrThrow());
  const older = await tx
    .selectFrom("service_accounts")
    .select("id")
    .where("organisation_id", "=", organisation.id)
    .where("name", "=", adminAccountName)
    .where("revoked_at", "is", null)
    .execute();
  for (const { id } of older) await revokeServiceAccount(tx, id);
  const token = newToken("bwt");
  const id = `sa_${token.id}`;
  await insertServiceAccount(tx, {
    id,
    organisationId: organisation.id,
    name: adminAccountName,
    role: "admin",
    hash: token.hash,
    lifeMs: undefined,
    createdBy: systemPrincipal.id,
  });
  await audit(ports.events, work, itself, {
    action,
    resourceKind: "service-account",
    resourceId: id,
    organisationId: organisation.id,
  });
  await ports.writeAdminToken(token.text); // F1
}
