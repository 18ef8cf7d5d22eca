/** AgentsService. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  AcceptAgentRequest_Side,
  type Agent,
  AgentSchema,
  AgentsService,
  DisputeSchema,
  ListAgentsResponseSchema,
  type UpdateAgentRequest,
  type WatchAgentsRequest,
  type WatchAgentsResponse,
  WatchAgentsResponseSchema,
} from "@bowline/contract/agents";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { findClusterId, lockClusterForChange } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf, type Principal } from "../platform/context.ts";
import { guardEtag } from "../platform/etags.ts";
import { updated } from "../platform/masks.ts";
import { uniqueViolation } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { watch } from "../platform/watch.ts";
import { acceptAgent, disputesOf } from "./accept.ts";
import { listForeign } from "./foreign.ts";
import { deleteAgent, retireAgent, revokeAgent } from "./leave.ts";
import { straysOf } from "../deployments/index.ts";
import { agentOf, type AgentPorts, type AgentRow, presenceOf } from "./model.ts";
import { releaseAgent } from "./release.ts";
import { countAgents, findAgent, getAgent, listAgents, lockAgent, mayKnowCluster } from "./queries.ts";

export function registerAgents(router: ConnectRouter, ports: AgentPorts): void {
  const { db, presence } = ports;
  router.service(AgentsService, {
    listAgents: async (request, context) => {
      const { principal } = callerOf(context);
      const clusterId = await resolveCluster(ports, principal, request.clusterId);
      const { rows, nextPageToken } = await listAgents(db, principal, { ...request, clusterId });
      const known = await presenceOf(presence, rows);
      return create(ListAgentsResponseSchema, {
        agents: rows.map((row) => agentOf(row, known)),
        nextPageToken,
        totalSize: request.returnTotalSize ? await countAgents(db, principal, clusterId) : undefined,
      });
    },
    getAgent: async (request, context) => {
      const row = await getAgent(db, callerOf(context).principal, request.id);
      const agent = agentOf(row, await presenceOf(presence, [row]));
      agent.strays = await straysOf(db, row.id);
      if (row.state !== "AWAITING_DECISION") return agent;
      agent.disputes = (await disputesOf(db, row.id)).map((dispute) => create(DisputeSchema, dispute));
      return agent;
    },
    updateAgent: (request, context) => updateAgent(ports, callerOf(context), request),
    cordonAgent: (request, context) => cordon(ports, callerOf(context), request.id, true),
    uncordonAgent: (request, context) => cordon(ports, callerOf(context), request.id, false),
    revokeAgent: (request, context) => revokeAgent(ports, callerOf(context), request.id),
    acceptAgent: (request, context) =>
      acceptAgent(ports, callerOf(context), {
        id: request.id,
        side: request.side === AcceptAgentRequest_Side.AGENT ? "AGENT" : "SERVER",
      }),
    releaseAgent: (request, context) => releaseAgent(ports, callerOf(context), request),
    retireAgent: (request, context) => retireAgent(ports, callerOf(context), request),
    deleteAgent: async (request, context) => {
      await deleteAgent(ports, callerOf(context), request);
      return create(EmptySchema);
    },
    listForeignContainers: (request, context) => listForeign(ports, callerOf(context), request, context.signal),
    watchAgents: (request, context) => watchAgents(ports, callerOf(context).principal, request, context.signal),
  });
}

/** The id of the cluster that a filter names; undefined for no filter. Throws NOT_FOUND. */
async function resolveCluster(ports: AgentPorts, principal: Principal, idOrName: string): Promise<string | undefined> {
  return idOrName === "" ? undefined : findClusterId(ports.db, principal, idOrName);
}

/** Locks what a change by an operator needs, writes it, and tells who follows agents. */
async function change(
  ports: AgentPorts,
  caller: Caller,
  idOrName: string,
  action: string,
  columns: (
    before: AgentRow,
  ) => Partial<Pick<AgentRow, "name" | "labels" | "capacity_limit" | "cordoned" | "client_certificate">>,
): Promise<Agent> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, idOrName);
  return transact(ports.db, async (work: Work) => {
    // The cluster's row first: enrolment gives names under it, and placement follows from labels.
    await lockClusterForChange(work.tx, clusterId);
    const before = await lockAgent(work.tx, caller.principal, id);
    const { labels, ...others } = columns(before);
    if (labels === undefined && Object.keys(others).length === 0) return agentOf(before, ports.presence);
    await work.tx
      .updateTable("agents")
      .set({
        ...others,
        ...(labels === undefined ? {} : { labels: JSON.stringify(labels) }),
        version: sql`version + 1`,
        updated_at: sql`now()`,
      })
      .where("id", "=", id)
      .execute();
    const after = await lockAgent(work.tx, caller.principal, id);
    await audit(ports.events, work, caller, {
      action,
      resourceKind: "agent",
      resourceId: id,
      organisationId: "",
      before: toJson(AgentSchema, agentOf(before)),
      after: toJson(AgentSchema, agentOf(after)),
    });
    await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId }]);
    await ports.agentChanged?.(work, id);
    return agentOf(after, ports.presence);
  });
}

async function updateAgent(ports: AgentPorts, caller: Caller, request: UpdateAgentRequest): Promise<Agent> {
  const patch = request.agent ?? create(AgentSchema);
  if (patch.id === "") {
    const description = "agent.id is required: an id, or a name that only one agent has.";
    throw problem("INVALID_ARGUMENT", description, { violations: [{ field: "agent.id", description }] });
  }
  try {
    return await change(ports, caller, patch.id, "agent.update", (row) => {
      guardEtag(patch.etag, row.version);
      const before = agentOf(row);
      const after = updated({
        schema: AgentSchema,
        before,
        patch,
        mask: request.updateMask,
        changeable: ["name", "labels", "capacity_limit", "client_certificate"],
        fixed: ["cluster_id", "cluster", "runtime"],
        at: "agent",
      });
      if (after.name === "") {
        const description = "An agent has a name.";
        throw problem("INVALID_ARGUMENT", description, { violations: [{ field: "agent.name", description }] });
      }
      return {
        name: after.name,
        labels: overlay(row, after.labels),
        capacity_limit: after.capacityLimit,
        client_certificate: after.clientCertificate,
      };
    });
  } catch (error) {
    if (uniqueViolation(error) === "agents_live_name") {
      throw problem("ALREADY_EXISTS", `The cluster has an agent ${patch.name} already.`);
    }
    throw error;
  }
}

/** What operators set: without what the agent reports with the same value anyway. */
function overlay(row: AgentRow, wanted: Record<string, string>): Record<string, string> {
  const kept = Object.entries(wanted).filter(
    ([key, value]) => row.reported_labels[key] !== value || Object.hasOwn(row.labels, key),
  );
  return Object.fromEntries(kept);
}

function cordon(ports: AgentPorts, caller: Caller, idOrName: string, cordoned: boolean): Promise<Agent> {
  return change(ports, caller, idOrName, cordoned ? "agent.cordon" : "agent.uncordon", (before) =>
    before.cordoned === cordoned ? {} : { cordoned },
  );
}

async function* watchAgents(
  ports: AgentPorts,
  principal: Principal,
  request: WatchAgentsRequest,
  signal: AbortSignal,
): AsyncGenerator<WatchAgentsResponse> {
  const { db, presence } = ports;
  const clusterId = await resolveCluster(ports, principal, request.clusterId);
  yield* watch<WatchAgentsResponse>(
    ports.events,
    request.cursor,
    {
      topic: "agent",
      snapshot: async function* () {
        let pageToken = "";
        do {
          const page = await listAgents(db, principal, { pageSize: 1000, pageToken, clusterId, orderBy: "" });
          const known = await presenceOf(presence, page.rows);
          for (const row of page.rows) yield create(WatchAgentsResponseSchema, { agent: agentOf(row, known) });
          pageToken = page.nextPageToken;
        } while (pageToken !== "");
      },
      wants: (event) => clusterId === undefined || event.clusterId === clusterId,
      read: async (event) => {
        const row = await findAgent(db, principal, event.subjectId);
        if (row !== undefined) {
          const known = await presenceOf(presence, [row]);
          return create(WatchAgentsResponseSchema, { agent: agentOf(row, known) });
        }
        if (!(await mayKnowCluster(db, principal, event.clusterId))) return undefined;
        return create(WatchAgentsResponseSchema, { agent: { id: event.subjectId }, deleted: true });
      },
      empty: ({ snapshotEnd }) => create(WatchAgentsResponseSchema, { snapshotEnd }),
      withCursor: (message, cursor) => Object.assign(message, { cursor }),
    },
    signal,
  );
}
