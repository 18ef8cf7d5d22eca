/**
 * An agent replaces its own keys.
 *
 * K5: the access token alone is not enough: the present key approves of the
 *     new one, and the new one proves that whoever asks has it.
 * K6: the session is looked at under its lock: what a session before asked for
 *     and what is still under way changes nothing any more once another one is
 *     open.
 */
import { type PublicJwk, thumbprint, whyNotKeyChange } from "@bowline/auth";
import type { RotateKeyRequest } from "@bowline/contract/agent";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { lockClusterForChange } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, type RequestFacts, systemPrincipal } from "../platform/context.ts";
import { databaseTime, transact, type Tx } from "../platform/transactions.ts";
import { hadKey, ownerOfKey, readKeys, replaceKeys } from "./keys.ts";
import type { AgentPorts, AgentRow } from "./model.ts";
import { findAgent, lockAgent } from "./queries.ts";

/** Who asks, by its access token. */
export interface SessionClaims {
  agentId: string;
  sessionId: string;
  epoch: number;
}

/** In an hour: far above any schedule, and a bound for what one agent can write into the audit trail. */
const rotationsPerHour = 10;
const anHourMs = 3_600_000;

/** See AgentService.RotateKey for its errors. Returns the thumbprint of the key that the agent has now. */
export async function rotateKey(
  ports: AgentPorts,
  claims: SessionClaims,
  installationId: string,
  request: RotateKeyRequest,
  facts: RequestFacts,
): Promise<string> {
  const keys = await readKeys(request);
  const change = {
    agentId: claims.agentId,
    audience: installationId,
    thumbprint: keys.thumbprint,
    sealingThumbprint: await thumbprint(keys.sealing),
  };
  const now = await databaseTime(ports.db);
  const wrong = await whyNotKeyChange(request.proof, keys.signing, change, now);
  if (wrong !== undefined) throw problem(wrong.reason, wrong.message);
  const known = await findAgent(ports.db, systemPrincipal, claims.agentId);
  if (known === undefined) throw problem("SESSION_EXPIRED");
  return transact(ports.db, async (work) => {
    const { tx } = work;
    await lockClusterForChange(tx, known.cluster_id);
    const before = await lockAgent(tx, systemPrincipal, claims.agentId);
    await holdSession(tx, before, claims); // K6
    if (before.signing_thumbprint === keys.thumbprint) return keys.thumbprint; // the reply got lost
    const unapproved = await whyNotKeyChange(request.approval, before.signing_key as PublicJwk, change, now); // K5
    if (unapproved !== undefined) throw problem(unapproved.reason, unapproved.message);
    if ((await ownerOfKey(tx, keys.thumbprint)) !== undefined || (await hadKey(tx, before.id, keys.thumbprint)))
      throw problem("AGENT_KEY_IN_USE", "The new key is or was a key of an agent: make another.");
    await checkPace(tx, before.id);
    await replaceKeys(tx, before, keys, "ROTATION");
    await audit(ports.events, work, callerOf(before, facts), {
      action: "agent.rotate-key",
      resourceKind: "agent",
      resourceId: before.id,
      before: { keyThumbprint: before.signing_thumbprint },
      after: { keyThumbprint: keys.thumbprint },
    });
    await ports.events.note(work, [{ topic: "agent", subjectId: before.id, clusterId: before.cluster_id }]);
    return keys.thumbprint;
  });
}

function callerOf(agent: AgentRow, facts: RequestFacts): Caller {
  const { id, name } = agent;
  return {
    principal: { kind: "agent", id, name, role: "agent", organisationId: "", organisation: "" },
    request: facts,
  };
}

/** Throws SESSION_EXPIRED. */
async function holdSession(tx: Tx, agent: AgentRow, claims: SessionClaims): Promise<void> {
  const session = await tx
    .selectFrom("sessions")
    .select(["id", "epoch", "state"])
    .where("agent_id", "=", agent.id)
    .forShare()
    .executeTakeFirst();
  const stands =
    agent.state === "ENROLLED" &&
    session !== undefined &&
    session.state !== "ENDED" &&
    session.id === claims.sessionId &&
    session.epoch === claims.epoch;
  if (!stands) throw problem("SESSION_EXPIRED");
}

/** Throws RATE_LIMITED. */
async function checkPace(tx: Tx, agentId: string): Promise<void> {
  const { count } = await tx
    .selectFrom("replaced_keys")
    .select(({ fn }) => fn.countAll<number>().as("count"))
    .where("agent_id", "=", agentId)
    .where("replaced_at", ">", sql<Date>`now() - make_interval(secs => ${anHourMs / 1000})`)
    .executeTakeFirstOrThrow();
  if (count >= rotationsPerHour) {
    const message = `An agent replaces its keys at most ${rotationsPerHour} times in an hour.`;
    throw problem("RATE_LIMITED", message, { retryAfterMs: anHourMs });
  }
}
