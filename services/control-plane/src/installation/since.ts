/**
 * What a database that a restore replaces knows of who may come in, and its
 * backup may not: ends of agents and of service accounts, and newer keys.
 *
 * C1: an agent of the backup that this database lacks was deleted, unless the
 *     database is of another history, which may never have known it.
 * C2: nothing here depends on the newest schema: the database may be older
 *     than this build.
 */
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";

export interface ReplacedKey {
  thumbprint: string;
  signingKey: unknown;
  because: string;
  replacedAt: Date;
}

/** An agent's identity as the replaced database has it. */
export interface KnownAgent {
  id: string;
  state: string;
  signingKey: unknown;
  thumbprint: string;
  sealingKey: unknown;
  hostname: string;
  runtimeIdentity: string;
  /** Undefined: its schema had none yet. */
  clientCertificate: string | undefined;
  /** Of its session; `0` where it never had one. Text, because it is a bigint. */
  assertionCounter: string;
  replaced: ReplacedKey[];
}

export interface Since {
  incarnation: number;
  /** Of the newest event. */
  position: number;
  agents: ReadonlyMap<string, KnownAgent>;
  /** By the audit trail: revoked or retired, and not there any more. */
  deleted: ReadonlySet<string>;
  /** They are never deleted. */
  serviceAccounts: { id: string; revokedAt: Date }[];
}

/** Undefined: the database is of another installation, or none of ours. */
export async function readSince(tx: Tx, installationId: string): Promise<Since | undefined> {
  const columns = await columnsOf(tx);
  const needed = ["installation.id", "agents.signing_thumbprint", "service_accounts.revoked_at", "audit_events.action"];
  if (!needed.every((column) => columns.has(column))) return undefined;
  const installation = await tx.selectFrom("installation").select(["id", "incarnation"]).executeTakeFirst();
  if (installation?.id !== installationId) return undefined;
  const agents = await readAgents(tx, columns.has("replaced_keys.thumbprint"));
  const { rows: positions } = await sql<{ position: number }>`
    SELECT (CASE WHEN is_called THEN last_value ELSE 0 END)::float8 AS position FROM event_position`.execute(tx);
  const ended = await tx
    .selectFrom("audit_events")
    .select("resource_id")
    .distinct()
    .where("action", "in", ["agent.revoke", "agent.retire", "agent.delete"])
    .where("outcome", "=", "ok")
    .execute();
  const serviceAccounts = await tx
    .selectFrom("service_accounts")
    .select(["id", "revoked_at as revokedAt"])
    .where("revoked_at", "is not", null)
    .$narrowType<{ revokedAt: Date }>()
    .execute();
  return {
    incarnation: installation.incarnation,
    position: positions[0]?.position ?? 0,
    agents,
    deleted: new Set(ended.map((row) => row.resource_id).filter((id) => !agents.has(id))),
    serviceAccounts,
  };
}

/** `table.column` of what is there (C2). */
async function columnsOf(tx: Tx): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ name: string }>`SELECT table_name || '.' || column_name AS name
    FROM information_schema.columns WHERE table_schema = current_schema()`.execute(tx);
  return new Set(rows.map(({ name }) => name));
}

async function readAgents(tx: Tx, withReplaced: boolean): Promise<Map<string, KnownAgent>> {
  const { rows } = await sql<Omit<KnownAgent, "replaced" | "clientCertificate"> & { certificate: string | null }>`
    SELECT a.id, a.state, a.signing_key AS "signingKey", a.signing_thumbprint AS thumbprint,
      a.sealing_key AS "sealingKey", a.hostname, a.runtime_identity AS "runtimeIdentity",
      to_jsonb(a) ->> 'client_certificate' AS certificate, coalesce(s.assertion_counter, 0)::text AS "assertionCounter"
    FROM agents AS a LEFT JOIN sessions AS s ON s.agent_id = a.id`.execute(tx);
  const agents = new Map(
    rows.map(({ certificate, ...agent }): [string, KnownAgent] => [
      agent.id,
      { ...agent, clientCertificate: certificate ?? undefined, replaced: [] },
    ]),
  );
  if (!withReplaced) return agents;
  const keys = await tx.selectFrom("replaced_keys").selectAll().orderBy("replaced_at").execute();
  for (const key of keys) {
    const { agent_id: id, thumbprint, signing_key: signingKey, because, replaced_at: replacedAt } = key;
    agents.get(id)?.replaced.push({ thumbprint, signingKey, because, replacedAt });
  }
  return agents;
}

/** Whether the replaced database goes on from where the backup was taken: same history, and not behind it (C1). */
export function continues(since: Since, backup: { incarnation: number; position: number }): boolean {
  return since.incarnation === backup.incarnation && since.position >= backup.position;
}
