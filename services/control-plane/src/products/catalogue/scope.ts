/**
 * Finding a row of the catalogue by id or name.
 *
 * S1: a row of another organisation is NOT_FOUND, except for those who see all.
 * S2: an id has an underscore and a name has none, so one can't be mistaken for the other.
 */
import type { Database } from "@bowline/db";
import { problem } from "@bowline/kernel";
import type { Kysely, Selectable } from "kysely";
import { type Principal, seesAll } from "../../platform/context.ts";

type NamedTable = "api_services" | "gateways" | "products";

const nouns = { api_services: "API service", gateways: "gateway", products: "product" } as const satisfies Record<
  NamedTable,
  string
>;

/** `update` serialises changes of the row; `delete` also waits for rows that refer to it. */
export type RowLock = "none" | "share" | "update" | "delete";

export type NamedRow<Table extends NamedTable> = Selectable<Database[Table]>;

/**
 * The row with this id or name. Where a name exists in several organisations, the principal's own wins; else it is
 * AMBIGUOUS_NAME. Throws NOT_FOUND.
 */
export async function findNamed<Table extends NamedTable>(
  db: Kysely<Database>,
  table: Table,
  principal: Principal,
  idOrName: string,
  lock: RowLock = "none",
): Promise<NamedRow<Table>> {
  if (!readable(idOrName)) throw notFound(table, idOrName);
  const own = principal.organisationId;
  // The three tables share the columns that are read here.
  let query = db
    .selectFrom(table as "products")
    .select(["id", "organisation_id"])
    .where((where) => where.or([where("id", "=", idOrName), where("name", "=", idOrName)]));
  if (!seesAll(principal)) query = query.where("organisation_id", "=", own); // S1
  const found = await query.limit(100).execute();
  const mine = found.filter((row) => row.organisation_id === own);
  const [match, another] = mine.length > 0 ? mine : found;
  if (another !== undefined)
    throw problem("AMBIGUOUS_NAME", `Several organisations have a ${nouns[table]} named ${idOrName}; use the id.`);
  const row = match === undefined ? undefined : await findById(db, table, match.id, lock);
  if (row === undefined) throw notFound(table, idOrName);
  return row;
}

/** The row with this id, locked. Undefined where there is none. */
export async function findById<Table extends NamedTable>(
  db: Kysely<Database>,
  table: Table,
  id: string,
  lock: RowLock = "none",
): Promise<NamedRow<Table> | undefined> {
  const query = db
    .selectFrom(table as "products")
    .selectAll()
    .where("id", "=", id);
  const locked =
    lock === "share"
      ? query.forShare()
      : lock === "update"
        ? query.forNoKeyUpdate()
        : lock === "delete"
          ? query.forUpdate()
          : query;
  return (await locked.executeTakeFirst()) as NamedRow<Table> | undefined;
}

/** What an id or a name can be; PostgreSQL can't even compare others (NUL). */
const spelling = /^[A-Za-z0-9_-]{1,100}$/;

export function readable(idOrName: string): boolean {
  return spelling.test(idOrName);
}

function notFound(table: NamedTable, idOrName: string) {
  return problem("NOT_FOUND", `There is no ${nouns[table]} ${JSON.stringify(idOrName)}.`);
}
