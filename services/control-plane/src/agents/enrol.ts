/**
 * Enrolment: a registration token is spent and an agent comes to be, in one
 * transaction (protocol.md, Enrolment). Those that come at once share it
 * (enrolments.ts).
 *
 * N1: the token's hash is checked before any signature: whoever lacks the
 *     secret costs and learns nothing.
 * N2: the cluster's row is locked FOR UPDATE first; so of two that hold one use
 *     one enrols, and names stay unique.
 * N3: a refusal of a token that was ours is a committed audit event.
 * N4: a lost reply is repeated: the same key and token within ten minutes get
 *     the same agent, unless it was revoked.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { matches, parseToken } from "@bowline/auth";
import { type EnrollRequest, type EnrollResponse, EnrollResponseSchema } from "@bowline/contract/agent";
import { newId, Problem, problem, type Reason } from "@bowline/kernel";
import { sql } from "kysely";
import {
  findRegistrationToken,
  lockForEnrolment,
  type LockedCluster,
  recordTokenUse,
  spendToken,
  tokenUseOf,
} from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { transact, type Tx, type Work } from "../platform/transactions.ts";
import { bindCertificate, certificateProblem } from "./certificates.ts";
import { createEnrolments, type Enrolments } from "./enrolments.ts";
import { type Keys, ownerOfKey, readKeys } from "./keys.ts";
import { type AgentPorts, type AgentState, agentStates } from "./model.ts";
import { requiresCertificate, tokenProblem } from "./token-problems.ts";
import { checkProof, type EnrolFacts } from "./proof.ts";
import { type KnownNames, nameOf, uniqueName } from "./names.ts";
import { rekey } from "./rekey.ts";

/** For this long a repeated enrolment is a lost reply (N4): longer than any client's retries. */
const lostReplyWithinMs = 10 * 60_000;

/** One enrolment whose token and proof were found to be right. */
interface Enrolling {
  caller: Caller;
  tokenId: string;
  clusterId: string;
  request: EnrollRequest;
  keys: Keys;
}

/** Answers calls of AgentService.Enroll; see there for its errors. */
export function createEnrol(ports: AgentPorts): (request: EnrollRequest, facts: EnrolFacts) => Promise<EnrollResponse> {
  const enrolments = createEnrolments<Enrolling, Answer | Problem>((set) => admitSet(ports, set));
  return (request, facts) => enrolments.admitted(() => enrol(ports, enrolments, request, facts));
}

async function enrol(
  ports: AgentPorts,
  enrolments: Enrolments<Enrolling, Answer | Problem>,
  request: EnrollRequest,
  facts: EnrolFacts,
): Promise<EnrollResponse> {
  const token = parseToken(request.token.trim());
  if (token?.prefix !== "bwr") {
    throw problem(
      "REGISTRATION_TOKEN_MALFORMED",
      "This is not a registration token (bwr_…), or a part of it is missing.",
    );
  }
  const tokenId = `rt_${token.id}`;
  const known = await findRegistrationToken(ports.db, tokenId);
  if (known === undefined || !matches(known.secret_hash, token.secret)) throw problem("REGISTRATION_TOKEN_UNKNOWN"); // N1
  const caller = callerOf(tokenId, facts);
  const keys = await readKeys(request);
  try {
    await checkProof(ports, request, facts, token.id, keys);
  } catch (error) {
    if (error instanceof Problem) {
      await transact(ports.db, (work) => refused(ports, work, caller, known.cluster_id, request, keys, error.reason));
    }
    throw error;
  }
  const clusterId = known.cluster_id;
  const outcome = await enrolments.add(clusterId, { caller, tokenId, clusterId, request, keys });
  if (outcome instanceof Problem) throw outcome;
  return create(EnrollResponseSchema, outcome);
}

/** What a set has read under its cluster's lock, for those that follow. A token that rekeys is read for each. */
interface Known {
  tokens: Map<string, NonNullable<Awaited<ReturnType<typeof lockForEnrolment>>>>;
  names: KnownNames;
}

/** In one transaction: those of one cluster share its lock (N2). */
async function admitSet(ports: AgentPorts, set: readonly Enrolling[]): Promise<(Answer | Problem)[]> {
  return transact(ports.db, async (work) => {
    const answers: (Answer | Problem)[] = [];
    const known: Known = { tokens: new Map(), names: new Map() };
    for (const { caller, tokenId, clusterId, request, keys } of set) {
      const answer = await admit(ports, work, caller, tokenId, request, keys, known);
      if (answer instanceof Problem) {
        await refused(ports, work, caller, clusterId, request, keys, answer.reason); // N3: returned, so that it commits
      }
      answers.push(answer);
    }
    return answers;
  });
}

/** Who enrols has no name yet; the token stands for it. */
function callerOf(tokenId: string, facts: EnrolFacts): Caller {
  return {
    principal: {
      kind: "agent",
      id: tokenId,
      name: "registration token",
      role: "agent",
      organisationId: "",
      organisation: "",
    },
    request: {
      requestId: facts.requestId,
      remoteAddress: facts.remoteAddress,
      clientCertificate: facts.clientCertificate ?? "",
    },
  };
}

type Answer = MessageInitShape<typeof EnrollResponseSchema>;

/** Spends the token and makes the agent; or says, as a value, why not. */
async function admit(
  ports: AgentPorts,
  work: Work,
  caller: Caller,
  tokenId: string,
  request: EnrollRequest,
  keys: Keys,
  known: Known,
): Promise<Answer | Problem> {
  const { tx } = work;
  const locked = known.tokens.get(tokenId) ?? (await lockForEnrolment(tx, tokenId)); // N2
  if (locked === undefined) return problem("REGISTRATION_TOKEN_UNKNOWN");
  if (locked.rekeyAgentId === null) known.tokens.set(tokenId, locked);
  const { cluster, state } = locked;
  const before = await tokenUseOf(tx, tokenId, keys.thumbprint, lostReplyWithinMs);
  if (before !== undefined) {
    const agent = await tx
      .selectFrom("agents")
      .select(["id", "name", "state", "signing_thumbprint"])
      .where("id", "=", before.agent_id)
      .executeTakeFirstOrThrow();
    if (agentStates[agent.state as AgentState].gone) return problem("AGENT_REVOKED");
    if (agent.signing_thumbprint !== keys.thumbprint) return problem("AGENT_KEY_REPLACED");
    if (before.recent) return answerOf(tx, agent, cluster); // N4
  }
  const unusable = tokenProblem(state, cluster);
  if (unusable !== undefined) return unusable;
  if (cluster.runtime !== request.runtime) {
    return problem(
      "CLUSTER_MISMATCH",
      `The token is for the cluster ${cluster.name}, which is of kind ${cluster.runtime}; this agent is of kind ${request.runtime}.`,
      { metadata: { cluster: cluster.runtime, agent: request.runtime } },
    );
  }
  const presented = caller.request.clientCertificate ?? "";
  const unproven = certificateProblem(requiresCertificate(cluster), "", presented);
  if (unproven !== undefined) return unproven;
  const owner = await ownerOfKey(tx, keys.thumbprint);
  if (owner !== undefined) {
    return problem(
      "AGENT_KEY_IN_USE",
      `The agent ${owner} has this key already: start it, or give this one a folder of its own.`,
    );
  }
  if (locked.rekeyAgentId !== null) {
    const agent = await rekey(ports, work, caller, { id: locked.rekeyAgentId, tokenId, request, keys });
    return agent instanceof Problem ? agent : answerOf(tx, agent, cluster);
  }
  if (!(await spendToken(tx, tokenId))) {
    // Spent by others of this set, or over since it was read.
    const now = await lockForEnrolment(tx, tokenId);
    return tokenProblem(now?.state ?? "EXPIRED", cluster) ?? problem("REGISTRATION_TOKEN_EXPIRED");
  }
  const agent = await insertAgent(tx, cluster, request, keys, known.names);
  await bindCertificate(tx, agent.id, presented);
  await recordTokenUse(tx, tokenId, agent.id, keys.thumbprint);
  await audit(ports.events, work, caller, {
    action: "agent.enrol",
    resourceKind: "agent",
    resourceId: agent.id,
    after: { ...factsOf(request, keys), name: agent.name, clusterId: cluster.id, registrationTokenId: tokenId },
  });
  await ports.events.note(work, [{ topic: "agent", subjectId: agent.id, clusterId: cluster.id }]);
  await ports.agentEnrolled(work, { id: agent.id, name: agent.name, clusterId: cluster.id });
  return answerOf(tx, agent, cluster);
}

async function insertAgent(
  tx: Tx,
  cluster: LockedCluster,
  request: EnrollRequest,
  keys: Keys,
  names: KnownNames,
): Promise<{ id: string; name: string }> {
  const id = newId("agent");
  const name = await uniqueName(tx, cluster.id, request.name || nameOf(request.hostname), names);
  await tx
    .insertInto("agents")
    .values({
      id,
      cluster_id: cluster.id,
      name,
      hostname: request.hostname,
      reported_labels: JSON.stringify(request.labels),
      runtime: request.runtime,
      runtime_identity: request.runtimeIdentity,
      agent_version: request.agentVersion,
      signing_key: JSON.stringify(keys.signing),
      signing_thumbprint: keys.thumbprint,
      sealing_key: JSON.stringify(keys.sealing),
    })
    .execute();
  return { id, name };
}

async function answerOf(tx: Tx, agent: { id: string; name: string }, cluster: LockedCluster): Promise<Answer> {
  const installation = await tx
    .selectFrom("installation")
    .select("id")
    .select(sql<Date>`clock_timestamp()`.as("now"))
    .executeTakeFirstOrThrow();
  return {
    agentId: agent.id,
    name: agent.name,
    clusterId: cluster.id,
    cluster: cluster.name,
    installationId: installation.id,
    serverTime: timestampFromDate(installation.now),
  };
}

/** What an audit event says about who came; nothing of it is secret. */
function factsOf(request: EnrollRequest, keys: Keys) {
  return { hostname: request.hostname, runtime: request.runtime, keyThumbprint: keys.thumbprint };
}

async function refused(
  ports: AgentPorts,
  work: Work,
  caller: Caller,
  clusterId: string,
  request: EnrollRequest,
  keys: Keys,
  reason: Reason,
): Promise<void> {
  await audit(ports.events, work, caller, {
    action: "agent.enrol",
    resourceKind: "registration-token",
    resourceId: caller.principal.id,
    after: { ...factsOf(request, keys), clusterId },
    outcome: reason,
  });
}
