/** The values of secrets: the only place where they are in clear text, and only in memory. */
import { decrypt, encrypt, type EncryptionKey, type PublicJwk, sealTo } from "@bowline/auth";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Db, Tx } from "../platform/transactions.ts";

/** An agent's X25519 public key, the one that it has now. */
export type SealingKey = PublicJwk;

/** What a fetch gets. Not ok: the value of the secret of that name cannot be read; `why` is for the log. */
export type Sealed =
  | { ok: true; values: Record<string, string> }
  | { ok: false; secret: string; secretId: string; why: string };

/** Versions that stay though nothing published has them: a rollback of a mistake, and fetches under way. */
const keepVersions = 10;

/** Writes a value as this version (V1), and forgets old ones that nothing has (V3). */
export async function writeValue(
  tx: Tx,
  encryption: EncryptionKey,
  secretId: string,
  version: number,
  value: Uint8Array,
): Promise<void> {
  await tx
    .insertInto("secret_versions")
    .values({
      secret_id: secretId,
      version,
      value_encrypted: Buffer.from(encrypt(encryption, Buffer.from(value), placeOf(secretId, version))),
    })
    .execute();
  await sql`
    DELETE FROM secret_versions AS v WHERE v.secret_id = ${secretId} AND v.version <= ${version - keepVersions}
      AND NOT ${inUse(sql`v.secret_id || '/' || v.version`)}`.execute(tx);
}

/**
 * Gives a stack's own secret of this name this value: makes the secret, or its next version where its newest one has
 * another value, or one that cannot be read.
 */
export async function keepValue(
  { tx, encryption }: { tx: Tx; encryption: EncryptionKey },
  stack: { id: string; organisation_id: string },
  plainName: string,
  value: Uint8Array,
): Promise<void> {
  const name = givenName(stack.id, plainName);
  const known = await tx
    .selectFrom("secrets")
    .select(["id", "version"])
    .where("organisation_id", "=", stack.organisation_id)
    .where("name", "=", name)
    .forUpdate()
    .executeTakeFirst();
  if (known === undefined) {
    const id = newId("secret");
    const { organisation_id, id: stack_id } = stack;
    await tx.insertInto("secrets").values({ id, organisation_id, stack_id, name, version: 1 }).execute();
    await writeValue(tx, encryption, id, 1, value);
    return;
  }
  if (await hasValue({ tx, encryption }, known, value)) return;
  const version = known.version + 1;
  await tx
    .updateTable("secrets")
    .set({ version, updated_at: sql`now()` })
    .where("id", "=", known.id)
    .execute();
  await writeValue(tx, encryption, known.id, version, value);
}

/**
 * What `givenVersions` would say of a stack's own secrets after `keepValue` of these values, by name: the newest version
 * where it has the value, else a text that is no version's. Changes nothing.
 */
export async function plannedVersions(
  { tx, encryption }: { tx: Tx; encryption: EncryptionKey },
  stackId: string,
  values: ReadonlyMap<string, Uint8Array>,
): Promise<Record<string, string>> {
  const rows = await tx
    .selectFrom("secrets")
    .select(["id", "name", "version"])
    .where("stack_id", "=", stackId)
    .where("stack_id", "<>", "")
    .execute();
  const planned: Record<string, string> = {};
  for (const [name, value] of values) {
    const known = rows.find((row) => row.name === givenName(stackId, name));
    const has = known !== undefined && (await hasValue({ tx, encryption }, known, value));
    planned[name] = has ? `${known.id}/${known.version}` : "new";
  }
  return planned;
}

/** In the table, where names are unique in the organisation: nobody can make one of the API with a slash. */
function givenName(stackId: string, name: string): string {
  return `${stackId}/${name}`;
}

/** The newest version of each of these secrets that came with a stack, by name. Throws SECRET_UNKNOWN. */
export async function givenVersions(
  tx: Tx,
  stackId: string,
  names: readonly string[],
): Promise<Record<string, string>> {
  if (names.length === 0) return {};
  const rows = await tx
    .selectFrom("secrets")
    .select(["id", "name", "version"])
    .where("stack_id", "=", stackId)
    .execute();
  const found = new Map(rows.map((row) => [row.name, `${row.id}/${row.version}`]));
  return Object.fromEntries(
    names.map((name) => {
      const version = found.get(givenName(stackId, name));
      if (version !== undefined) return [name, version];
      throw problem(
        "SECRET_UNKNOWN",
        `The content of the stack's secret ${name} is not there. Apply the stack with it.`,
        {
          metadata: { secret: name },
        },
      );
    }),
  );
}

/** Removes what came with stacks, which nothing has any more. */
export async function dropGiven(tx: Tx, stackIds: readonly string[]): Promise<void> {
  if (stackIds.length === 0) return;
  await tx.deleteFrom("secrets").where("stack_id", "in", stackIds).execute();
}

/** Whether the newest version of a secret has this value. */
async function hasValue(
  ports: { tx: Tx; encryption: EncryptionKey },
  secret: { id: string; version: number },
  value: Uint8Array,
): Promise<boolean> {
  const newest = await valueAt(ports, secret.id, secret.version);
  return newest !== undefined && Buffer.compare(newest, value) === 0;
}

/** What deployments that are there are at, and what commands that have not ended will bring. */
function inUse(reference: ReturnType<typeof sql>) {
  return sql<boolean>`EXISTS (
    SELECT 1 FROM deployment_generations AS g JOIN deployments AS d ON d.id = g.deployment_id
    WHERE g.secrets <> '{}'
      AND (d.generation = g.generation AND NOT d.is_absent OR EXISTS (
        SELECT 1 FROM command_states AS s JOIN commands AS c ON c.id = s.command_id
        WHERE s.deployment_id = d.id AND s.ended_at IS NULL AND c.generation = g.generation))
      AND EXISTS (SELECT 1 FROM jsonb_each_text(g.secrets) AS made WHERE made.value = ${reference}))`;
}

/**
 * The newest version of each of these secrets of an organisation, by name, as
 * `<secret id>/<version>`. Holds them until the transaction's end, so that none
 * is deleted meanwhile. Throws SECRET_UNKNOWN, which names the first that is missing.
 */
export async function resolveVersions(
  tx: Tx,
  organisationId: string,
  names: readonly string[],
): Promise<Record<string, string>> {
  if (names.length === 0) return {};
  const rows = await tx
    .selectFrom("secrets")
    .select(["id", "name", "version"])
    .where("organisation_id", "=", organisationId)
    .where("name", "in", [...new Set(names)])
    .where("stack_id", "=", "")
    .orderBy("id")
    .forShare()
    .execute();
  const versions = Object.fromEntries(rows.map((row) => [row.name, `${row.id}/${row.version}`]));
  const missing = names.find((name) => versions[name] === undefined);
  if (missing !== undefined) {
    throw problem("SECRET_UNKNOWN", `The organisation has no secret ${missing}. Make it, then publish again.`, {
      metadata: { secret: missing },
    });
  }
  return versions;
}

/** What a header can carry. */
const headerValue = /^[\t\x20-\x7e]{1,4096}$/;

/** As `resolveVersions`, of secrets that are sent as headers. Throws SECRET_UNFIT too, for one that is none. */
export async function resolveHeaders(
  { tx, encryption }: { tx: Tx; encryption: EncryptionKey },
  organisationId: string,
  names: readonly string[],
): Promise<Record<string, string>> {
  const versions = await resolveVersions(tx, organisationId, names);
  for (const [name, reference] of Object.entries(versions)) {
    const { secretId, version } = parseReference(reference);
    const value = await valueAt({ tx, encryption }, secretId, version);
    // One that cannot be read is told when it is fetched.
    if (value === undefined || headerValue.test(Buffer.from(value).toString("latin1"))) continue;
    throw problem(
      "SECRET_UNFIT",
      `A backend sends the secret ${name} as a header, and its value is none: one line of printable ASCII, at most 4096.`,
      { metadata: { secret: name } },
    );
  }
  return versions;
}

function parseReference(reference: string): { secretId: string; version: number } {
  const at = reference.lastIndexOf("/");
  return { secretId: reference.slice(0, at), version: Number(reference.slice(at + 1)) };
}

/** Undefined: it is not there, or was encrypted with a key that is lost. */
async function valueAt(
  { tx, encryption }: { tx: Tx; encryption: EncryptionKey },
  secretId: string,
  version: number,
): Promise<Uint8Array | undefined> {
  const row = await tx
    .selectFrom("secret_versions")
    .select("value_encrypted")
    .where("secret_id", "=", secretId)
    .where("version", "=", version)
    .executeTakeFirst();
  try {
    return row && decrypt([encryption], row.value_encrypted, placeOf(secretId, version));
  } catch {
    return undefined;
  }
}

/**
 * V2. Sealing costs about 0.3 ms each. Not ok where a version is gone, or was
 * encrypted with a key that is lost; rejects where the database does not answer.
 */
export async function sealFor(
  { db, encryption }: { db: Db; encryption: EncryptionKey },
  versions: Readonly<Record<string, string>>,
  key: SealingKey,
): Promise<Sealed> {
  const wanted = Object.entries(versions).map(([name, reference]) => ({ name, ...parseReference(reference) }));
  const rows = await db
    .selectFrom("secret_versions")
    .selectAll()
    .where("secret_id", "in", [...new Set(wanted.map(({ secretId }) => secretId))])
    .where("version", "in", [...new Set(wanted.map(({ version }) => version))])
    .execute();
  const values: Record<string, string> = {};
  for (const { name, secretId, version } of wanted) {
    const row = rows.find((one) => one.secret_id === secretId && one.version === version);
    const unreadable = (why: string): Sealed => ({ ok: false, secret: name, secretId, why });
    if (row === undefined) return unreadable(`it has no version ${version}, though a spec names it`);
    let value: Uint8Array;
    try {
      value = decrypt([encryption], row.value_encrypted, placeOf(secretId, version));
    } catch (error) {
      return unreadable(error instanceof Error ? error.message : String(error));
    }
    values[name] = await sealTo(key, value);
  }
  return { ok: true, values };
}

function placeOf(secretId: string, version: number): string {
  return `secret_versions/${secretId}/${version}`;
}
