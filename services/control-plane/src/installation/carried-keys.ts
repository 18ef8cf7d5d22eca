/**
 * Keys of agents that are newer in the database that a restore replaces.
 *
 * C3: a key that was replaced there never becomes the agent's again (agents/keys.ts,
 *     K2): it may have been copied. Nor does one that the backup knows as
 *     replaced: then its own keys are the newer ones.
 * C4: with its keys comes what they are tied to: host, engine, certificate and
 *     the counter of its assertions. Without the engine the new host would be
 *     taken for a second one.
 */
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import type { Events } from "../platform/events.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { byTheRestore } from "./revocations.ts";
import { continues, type KnownAgent, type ReplacedKey, type Since } from "./since.ts";

/** An agent of the backup. */
interface Backed {
  id: string;
  state: string;
  thumbprint: string;
  signingKey: unknown;
}

/** After revokeAgain, which frees the keys of those that are gone. Returns how many agents got newer keys. */
export async function carryKeys(
  work: Work,
  events: Events,
  since: Since,
  backup: { incarnation: number; position: number },
): Promise<number> {
  const { tx } = work;
  const backed: Backed[] = await tx
    .selectFrom("agents")
    .select(["id", "state", "signing_thumbprint as thumbprint", "signing_key as signingKey"])
    .where("state", "not in", ["REVOKED", "RETIRED"])
    .orderBy("id")
    .execute();
  const known = backed.flatMap((row) => {
    const agent = since.agents.get(row.id);
    return agent === undefined ? [] : [{ row, agent }];
  });
  if (continues(since, backup)) for (const { agent } of known) await carryCertificate(tx, agent);
  const replacedHere = await replacedIn(tx);
  for (const { agent } of known) await rememberReplaced(tx, agent.id, agent.replaced);
  const newer = known.filter(
    ({ row, agent }) => row.thumbprint !== agent.thumbprint && !replacedHere.has(`${agent.id} ${agent.thumbprint}`), // C3
  );
  const carried = withoutTaken(newer, backed);
  // Among themselves they may have handed keys on: none has any while they are given.
  for (const { row } of carried)
    await tx
      .updateTable("agents")
      .set({ signing_thumbprint: `carried ${row.id}` })
      .where("id", "=", row.id)
      .execute();
  for (const { row, agent } of carried) await carry(work, events, row, agent);
  return carried.length;
}

/** One that the replaced database never knew may have the key in the backup: no two have one. */
function withoutTaken<One extends { row: Backed; agent: KnownAgent }>(newer: One[], backed: readonly Backed[]): One[] {
  const changing = new Set(newer.map(({ row }) => row.id));
  const taken = new Set(backed.filter(({ id }) => !changing.has(id)).map(({ thumbprint }) => thumbprint));
  const left = newer.filter(({ agent }) => !taken.has(agent.thumbprint));
  return left.length === newer.length ? left : withoutTaken(left, backed); // whoever keeps its own takes that too
}

async function replacedIn(tx: Tx): Promise<ReadonlySet<string>> {
  const rows = await tx.selectFrom("replaced_keys").select(["agent_id", "thumbprint"]).execute();
  return new Set(rows.map((row) => `${row.agent_id} ${row.thumbprint}`));
}

/** All of them, also those that are more than an agent keeps: the next replacement forgets the oldest. */
async function rememberReplaced(tx: Tx, agentId: string, keys: readonly ReplacedKey[]): Promise<void> {
  if (keys.length === 0) return;
  await tx
    .insertInto("replaced_keys")
    .values(
      keys.map(({ thumbprint, signingKey, because, replacedAt }) => ({
        ...{ agent_id: agentId, thumbprint, because, replaced_at: replacedAt },
        signing_key: JSON.stringify(signingKey),
      })),
    )
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

async function carry(work: Work, events: Events, row: Backed, agent: KnownAgent): Promise<void> {
  const { tx } = work;
  const { thumbprint } = row;
  // Known there already, unless so many came after it that it was forgotten.
  await tx
    .insertInto("replaced_keys")
    .values({ agent_id: row.id, thumbprint, signing_key: JSON.stringify(row.signingKey), because: "ROTATION" })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const isSettled = row.state !== "ENROLLED" && agent.state === "ENROLLED"; // by the rekey, or an operator before it
  await tx
    .updateTable("agents")
    .set({
      ...(isSettled ? { state: "ENROLLED", conflict: "", conflict_runtime_identity: "", decision: "" } : {}),
      signing_key: JSON.stringify(agent.signingKey),
      signing_thumbprint: agent.thumbprint,
      sealing_key: JSON.stringify(agent.sealingKey),
      hostname: agent.hostname, // C4
      runtime_identity: agent.runtimeIdentity,
      version: sql`version + 1`,
      updated_at: sql`now()`,
    })
    .where("id", "=", row.id)
    .execute();
  if (isSettled)
    await tx.deleteFrom("agent_disputes").where("agent_id", "=", row.id).where("settled_at", "is", null).execute();
  await carryCertificate(tx, agent);
  await tx.deleteFrom("displaced_processes").where("agent_id", "=", row.id).execute();
  await tx
    .updateTable("sessions")
    .set({ assertion_counter: sql<number>`${agent.assertionCounter}::bigint`, process_id: "" })
    .where("agent_id", "=", row.id)
    .execute();
  await audit(events, work, byTheRestore, {
    action: "agent.rekey",
    resourceKind: "agent",
    resourceId: row.id,
    organisationId: "",
    before: { keyThumbprint: thumbprint },
    after: { keyThumbprint: agent.thumbprint, because: "it had newer keys in the database that a restore replaced" },
  });
}

async function carryCertificate(tx: Tx, { id, clientCertificate }: KnownAgent): Promise<void> {
  if (clientCertificate === undefined) return;
  await tx
    .updateTable("agents")
    .set({ client_certificate: clientCertificate })
    .where("id", "=", id)
    .where("client_certificate", "<>", clientCertificate)
    .execute();
}
