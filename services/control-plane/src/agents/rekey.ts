/**
 * A registration token that gives an existing agent new keys: a dead host's
 * replacement, or the same host after its key got into other hands.
 *
 * K3: the agent keeps its id, name and deployments; all of them are converged
 *     again, because the new host may have nothing of them.
 *     That ends a CONFLICT and AWAITING_DECISION: whose word stood against the
 *     server's is gone. A new host that has the old one's folder all the same
 *     tells so when it dials, and awaits a decision again; what an operator has
 *     answered stays answered.
 * K4: the session ends and the epoch grows in the transaction that replaces the
 *     keys; the new key's assertions count from zero.
 */
import type { EnrollRequest } from "@bowline/contract/agent";
import { Problem, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { recordTokenUse, spendToken } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, type Principal, systemPrincipal } from "../platform/context.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { rebindCertificate } from "./certificates.ts";
import { hadKey, type Keys, replaceKeys } from "./keys.ts";
import { type AgentPorts, type AgentRow, goneProblem } from "./model.ts";
import { findAgent, getAgent, lockAgent } from "./queries.ts";

/** Throws NOT_FOUND, AMBIGUOUS_NAME, AGENT_REVOKED, AGENT_RETIRED. */
export async function rekeyable(
  ports: Pick<AgentPorts, "db">,
  principal: Principal,
  idOrName: string,
): Promise<{ id: string; name: string; clusterId: string }> {
  const row = await getAgent(ports.db, principal, idOrName);
  const gone = goneProblem(row);
  if (gone !== undefined) throw gone;
  return { id: row.id, name: row.name, clusterId: row.cluster_id };
}

/** A token outlives the agent that it was for. */
export const deletedProblem = (): Problem =>
  problem(
    "AGENT_REVOKED",
    "The agent that the token was for has been deleted: enrol a new one with an ordinary token.",
  );

/** Spends the token and gives the agent these keys; or says, as a value, why not. The caller holds the cluster's row. */
export async function rekey(
  ports: AgentPorts,
  work: Work,
  caller: Caller,
  entry: { id: string; tokenId: string; request: EnrollRequest; keys: Keys },
): Promise<{ id: string; name: string } | Problem> {
  const { tx } = work;
  const { id, tokenId, request, keys } = entry;
  if ((await findAgent(tx, systemPrincipal, id)) === undefined) return deletedProblem();
  const before = await lockAgent(tx, systemPrincipal, id);
  const gone = goneProblem(before);
  if (gone !== undefined) return gone;
  if (await hadKey(tx, id, keys.thumbprint)) {
    const what = `This key was the agent ${before.name}'s before. Move signing-key.json and sealing-key.json away, so that new ones are made.`;
    return problem("AGENT_KEY_REPLACED", what); // K2
  }
  if (!(await spendToken(tx, tokenId))) return problem("REGISTRATION_TOKEN_EXPIRED"); // while we waited for the row
  await recordTokenUse(tx, tokenId, id, keys.thumbprint);
  await replaceKeys(tx, before, keys, "REKEY");
  await tx
    .updateTable("agents")
    .set({
      ...{ state: "ENROLLED", conflict: "", conflict_runtime_identity: "", decision: "" }, // K3
      hostname: request.hostname,
      reported_labels: JSON.stringify(request.labels),
      runtime_identity: request.runtimeIdentity,
      agent_version: request.agentVersion,
    })
    .where("id", "=", id)
    .execute();
  await tx.deleteFrom("agent_disputes").where("agent_id", "=", id).where("settled_at", "is", null).execute();
  await rebindCertificate(tx, id, caller.request.clientCertificate ?? "");
  const epoch = await endSession(tx, id);
  const deployments = await ports.agentAfresh(work, { id, epoch, createdBy: caller.principal.id }); // K3
  await audit(ports.events, work, caller, {
    action: "agent.rekey",
    resourceKind: "agent",
    resourceId: id,
    organisationId: "",
    before: whoIs(before),
    after: {
      name: before.name,
      state: "ENROLLED",
      keyThumbprint: keys.thumbprint,
      hostname: request.hostname,
      runtimeIdentity: request.runtimeIdentity,
      registrationTokenId: tokenId,
      deploymentsConvergedAgain: deployments,
    },
  });
  await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId: before.cluster_id }]);
  await ports.agentChanged?.(work, id);
  work.after(() => ports.closeSession(id, "REKEYED"));
  return { id, name: before.name };
}

/** K4. The epoch of the session before, or undefined where there never was one. */
async function endSession(tx: Tx, agentId: string): Promise<number | undefined> {
  await tx.deleteFrom("displaced_processes").where("agent_id", "=", agentId).execute();
  const session = await tx
    .selectFrom("sessions")
    .select("epoch")
    .where("agent_id", "=", agentId)
    .forUpdate()
    .executeTakeFirst();
  if (session === undefined) return undefined;
  await tx
    .updateTable("sessions")
    .set({
      epoch: session.epoch + 1,
      state: "ENDED",
      ended_at: sql<Date>`now()`,
      end_reason: "REKEYED",
      assertion_counter: 0,
      process_id: "",
    })
    .where("agent_id", "=", agentId)
    .execute();
  return session.epoch;
}

function whoIs(row: AgentRow) {
  return {
    name: row.name,
    state: row.state,
    keyThumbprint: row.signing_thumbprint,
    hostname: row.hostname,
    runtimeIdentity: row.runtime_identity,
  };
}
