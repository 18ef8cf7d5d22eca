/**
 * The principal behind a request.
 *
 * D1: whoever lacks the secret learns nothing: an unknown id and a wrong secret
 *     get the same answer, after the same comparison.
 */
import { hashSecret, matches, parseToken } from "@bowline/auth";
import type { RoleName } from "@bowline/contract";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { createBatcher } from "../platform/batches.ts";
import type { Principal } from "../platform/context.ts";
import type { Db } from "../platform/transactions.ts";

/** Compared with where there is no such id (D1). */
const nobody = hashSecret("");

/** Calls that wait for the look before theirs: seconds of it. */
const maxWaiting = 10_000;

/** See Identity.authenticate. Calls of one moment share a look at the database, which begins after each of them. */
export function createAuthenticate(db: Db): (headers: Pick<Headers, "get">) => Promise<Principal | undefined> {
  const accounts = createBatcher<string, Account | undefined>((ids) => readAccounts(db, ids), {
    maxWaiting,
    overloaded: () => problem("OVERLOADED", "More calls wait for the database than this replica takes."),
    everybodys: () => true,
  });
  return (headers) => authenticate(db, headers, (id) => accounts.add(id));
}

type Account = Awaited<ReturnType<ReturnType<typeof selectAccounts>["execute"]>>[number];

function selectAccounts(db: Db, ids: readonly string[]) {
  return db
    .selectFrom("service_accounts as s")
    .innerJoin("organisations as o", "o.id", "s.organisation_id")
    .select([
      "s.id",
      "s.name",
      "s.role",
      "s.secret_hash",
      "s.organisation_id",
      "s.revoked_at",
      "o.name as organisation",
    ])
    .select([
      sql<boolean>`coalesce(s.expires_at <= now(), false)`.as("expired"),
      sql<boolean>`coalesce(s.last_used_at < date_trunc('minute', now()), true)`.as("used_before_this_minute"),
    ])
    .where("s.id", "=", sql<string>`any(${[...new Set(ids)]})`);
}

async function readAccounts(db: Db, ids: readonly string[]): Promise<(Account | undefined)[]> {
  const rows = new Map((await selectAccounts(db, ids).execute()).map((row) => [row.id, row]));
  return ids.map((id) => rows.get(id));
}

async function authenticate(
  db: Db,
  headers: Pick<Headers, "get">,
  accountOf: (id: string) => Promise<Account | undefined>,
): Promise<Principal | undefined> {
  const header = headers.get("authorization");
  if (header === null || header.trim() === "") return undefined;
  const [, text] = /^bearer +(\S+)$/i.exec(header.trim()) ?? [];
  if (text === undefined) throw problem("UNAUTHENTICATED", "Send `Authorization: Bearer <API token>`.");
  const token = parseToken(text);
  if (token?.prefix === "bwr") {
    throw problem("UNAUTHENTICATED", "This is a registration token. An API token starts with bwt_.");
  }
  if (token === undefined) throw problem("UNAUTHENTICATED", "This is not an API token (bwt_…).");
  const row = await accountOf(`sa_${token.id}`);
  if (!matches(row?.secret_hash ?? nobody, token.secret) || row === undefined) {
    throw problem("UNAUTHENTICATED", "This server does not know the API token.");
  }
  if (row.revoked_at !== null) throw problem("UNAUTHENTICATED", `The API token of ${row.name} was revoked.`);
  if (row.expired)
    throw problem("TOKEN_EXPIRED", `The API token of ${row.name} has expired; an operator makes another.`);
  if (row.used_before_this_minute) {
    await sql`
      UPDATE service_accounts SET last_used_at = date_trunc('minute', now())
      WHERE id = ${row.id} AND coalesce(last_used_at < date_trunc('minute', now()), true)`.execute(db);
  }
  return {
    kind: "service-account",
    id: row.id,
    name: row.name,
    role: row.role as RoleName,
    organisationId: row.organisation_id,
    organisation: row.organisation,
  };
}
