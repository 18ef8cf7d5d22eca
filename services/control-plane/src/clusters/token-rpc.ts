/** RegistrationTokenService. */
import { create, toJson } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { newToken } from "@bowline/auth";
import {
  type CreateRegistrationTokenRequest,
  ListRegistrationTokensResponseSchema,
  type RegistrationToken,
  RegistrationTokenSchema,
  RegistrationTokenService,
} from "@bowline/contract/clusters";
import { problem } from "@bowline/kernel";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf, type Principal } from "../platform/context.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { accountNames } from "../identity/index.ts";
import { containerLine, joinLine } from "./join-lines.ts";
import { type ClusterPorts, policyOf, type TokenRow, tokenOf } from "./model.ts";
import { getCluster, lockCluster, visibleClusterIds } from "./queries.ts";
import { getToken, insertToken, listTokens, revokeTokens } from "./tokens.ts";

/** Long enough to walk to the host, short enough that a forgotten one is worthless tomorrow. */
const defaultLifeMs = 3_600_000;

export function registerTokens(router: ConnectRouter, ports: ClusterPorts): void {
  const { db } = ports;

  /** A token of a cluster that the principal may know of. Throws NOT_FOUND. */
  async function read(principal: Principal, id: string): Promise<TokenRow> {
    const row = await getToken(db, id);
    const visible = await visibleClusterIds(db, principal);
    if (visible?.includes(row.cluster_id) === false) {
      throw problem("NOT_FOUND", `There is no registration token ${id}.`);
    }
    return row;
  }

  const shown = async (token: RegistrationToken): Promise<RegistrationToken> => {
    await named(db, [token]);
    return token;
  };
  router.service(RegistrationTokenService, {
    createRegistrationToken: async (request, context) => shown(await createToken(ports, callerOf(context), request)),
    listRegistrationTokens: async (request, context) => {
      const cluster = await getCluster(db, callerOf(context).principal, request.clusterId);
      const { rows, nextPageToken } = await listTokens(db, cluster.id, request);
      const registrationTokens = await named(db, rows.map(tokenOf));
      return create(ListRegistrationTokensResponseSchema, { registrationTokens, nextPageToken });
    },
    getRegistrationToken: async (request, context) =>
      shown(tokenOf(await read(callerOf(context).principal, request.id))),
    revokeRegistrationToken: async (request, context) => shown(await revoke(ports, callerOf(context), request.id)),
  });
}

/** With the names of who issued them. */
async function named(db: Db, tokens: RegistrationToken[]): Promise<RegistrationToken[]> {
  const names = await accountNames(
    db,
    tokens.map((token) => token.createdBy),
  );
  for (const token of tokens) token.createdByName = names.get(token.createdBy) ?? "";
  return tokens;
}

async function createToken(
  ports: ClusterPorts,
  caller: Caller,
  request: CreateRegistrationTokenRequest,
): Promise<RegistrationToken> {
  const token = newToken("bwr");
  const id = `rt_${token.id}`;
  const maxUses = request.maxUses === 0 ? 1 : request.maxUses;
  const { clusterId, rekeyAgentId } = await placeOf(ports, caller, request, maxUses);
  return transact(ports.db, async (work) => {
    const cluster = await lockCluster(work.tx, clusterId, "share");
    if (cluster === undefined) throw problem("NOT_FOUND", `There is no cluster ${request.clusterId}.`);
    if (cluster.deleting) throw problem("CLUSTER_DELETING", `The cluster ${cluster.name} is being deleted.`);
    if (request.dockerHost !== "" && cluster.runtime !== "docker") {
      const description = `The cluster ${cluster.name} is of the runtime ${cluster.runtime}: its agents have no Docker Engine.`;
      throw problem("INVALID_ARGUMENT", description, { violations: [{ field: "docker_host", description }] });
    }
    if (maxUses > 1 && !policyOf(cluster.policy).allowBulkEnrolment) {
      throw problem(
        "BULK_ENROLMENT_NOT_ALLOWED",
        `The policy of the cluster ${cluster.name} allows one use per registration token (allow_bulk_enrolment).`,
      );
    }
    await insertToken(work.tx, {
      id,
      clusterId: cluster.id,
      hash: token.hash,
      maxUses,
      lifeMs: request.ttl === undefined ? defaultLifeMs : durationMs(request.ttl),
      createdBy: caller.principal.id,
      rekeyAgentId,
    });
    const made = tokenOf(await getToken(work.tx, id));
    await audit(ports.events, work, caller, {
      action: "registration-token.create",
      resourceKind: "registration-token",
      resourceId: id,
      organisationId: "",
      after: toJson(RegistrationTokenSchema, made),
    });
    made.token = token.text; // after the audit event: it never holds the token
    made.caFingerprint = ports.caFingerprint?.() ?? "";
    const { caFingerprint } = made;
    const { runtime } = cluster;
    const { publicUrl, serverVersion: version } = ports;
    const joining = { runtime, url: publicUrl(), caFingerprint, version, dockerHost: request.dockerHost };
    made.joinCommand = joinLine(joining);
    made.containerCommand = containerLine(joining);
    return made;
  });
}

/** Where the token leads: the cluster that is named, or the one of the agent that gets new keys. */
async function placeOf(
  ports: ClusterPorts,
  caller: Caller,
  request: CreateRegistrationTokenRequest,
  maxUses: number,
): Promise<{ clusterId: string; rekeyAgentId: string | undefined }> {
  const wrong = (field: string, description: string) =>
    problem("INVALID_ARGUMENT", description, { violations: [{ field, description }] });
  if (request.rekeyAgentId === "") {
    if (request.clusterId === "") throw wrong("cluster_id", "A cluster, or an agent that gets new keys, is required.");
    return { clusterId: request.clusterId, rekeyAgentId: undefined };
  }
  if (maxUses > 1) throw wrong("max_uses", "A token that rekeys an agent has one use.");
  const agent = await ports.rekeyable(caller.principal, request.rekeyAgentId);
  if (
    request.clusterId !== "" &&
    (await getCluster(ports.db, caller.principal, request.clusterId)).id !== agent.clusterId
  )
    throw wrong("cluster_id", `The agent ${agent.name} is in another cluster.`);
  return { clusterId: agent.clusterId, rekeyAgentId: agent.id };
}

async function revoke(ports: ClusterPorts, caller: Caller, id: string): Promise<RegistrationToken> {
  return transact(ports.db, async (work) => {
    // The cluster's row first, as enrolment takes it (E3): a token is either spent or revoked.
    await lockCluster(work.tx, (await getToken(work.tx, id)).cluster_id, "update");
    const before = await getToken(work.tx, id);
    if (before.revoked_at !== null) return tokenOf(before);
    await revokeTokens(work.tx, { id });
    const after = tokenOf(await getToken(work.tx, id));
    await audit(ports.events, work, caller, {
      action: "registration-token.revoke",
      resourceKind: "registration-token",
      resourceId: id,
      organisationId: "",
      before: toJson(RegistrationTokenSchema, tokenOf(before)),
      after: toJson(RegistrationTokenSchema, after),
    });
    return after;
  });
}
