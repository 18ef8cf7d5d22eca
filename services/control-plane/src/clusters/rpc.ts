/** ClusterService. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  type Cluster,
  ClusterSchema,
  ClusterService,
  type CreateClusterRequest,
  CreateClusterRequestSchema,
  ListClustersResponseSchema,
  type UpdateClusterRequest,
} from "@bowline/contract/clusters";
import { newId, problem, type Violation } from "@bowline/kernel";
import { sql } from "kysely";
import { getOrganisation } from "../identity/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf, type Principal } from "../platform/context.ts";
import { guardEtag } from "../platform/etags.ts";
import { once } from "../platform/idempotency.ts";
import { updated } from "../platform/masks.ts";
import { uniqueViolation } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { deleteCluster } from "./deletion.ts";
import { clusterOf, type ClusterPorts, type ClusterRow, nobody } from "./model.ts";
import { columnsOf, countClusters, everyone, getCluster, listClusters, lockCluster, moveDefault } from "./queries.ts";

const changeable = [
  "name",
  "display_name",
  "region",
  "cloud_provider",
  "labels",
  "capabilities",
  "is_default",
  "is_active",
  "policy",
];

export function registerClusters(router: ConnectRouter, ports: ClusterPorts): void {
  const { db } = ports;

  async function shown(principal: Principal, rows: readonly ClusterRow[]): Promise<Cluster[]> {
    const counts = await ports.countAgents(rows.map((row) => row.id));
    return rows.map((row) => clusterOf(row, counts.get(row.id) ?? nobody, principal));
  }

  async function read(principal: Principal, idOrName: string): Promise<Cluster> {
    const [cluster] = await shown(principal, [await getCluster(db, principal, idOrName)]);
    if (cluster === undefined) throw problem("NOT_FOUND");
    return cluster;
  }

  router.service(ClusterService, {
    listClusters: async (request, context) => {
      const { principal } = callerOf(context);
      const { rows, nextPageToken } = await listClusters(db, principal, request);
      return create(ListClustersResponseSchema, {
        clusters: await shown(principal, rows),
        nextPageToken,
        totalSize: request.returnTotalSize ? await countClusters(db, principal, request.runtime) : undefined,
      });
    },
    getCluster: (request, context) => read(callerOf(context).principal, request.id),
    createCluster: (request, context) => createCluster(ports, callerOf(context), request),
    updateCluster: async (request, context) => {
      const caller = callerOf(context);
      return read(caller.principal, await updateCluster(ports, caller, request));
    },
    deleteCluster: async (request, context) => {
      await deleteCluster(ports, callerOf(context), request);
      return create(EmptySchema);
    },
    grantCluster: async (request, context) => {
      const caller = callerOf(context);
      return read(caller.principal, await changeGrant(ports, caller, "grant", request));
    },
    ungrantCluster: async (request, context) => {
      const caller = callerOf(context);
      return read(caller.principal, await changeGrant(ports, caller, "ungrant", request));
    },
  });
}

async function createCluster(ports: ClusterPorts, caller: Caller, request: CreateClusterRequest): Promise<Cluster> {
  const wanted = request.cluster ?? create(ClusterSchema);
  const missing = (["name", "runtime"] as const).filter((field) => wanted[field] === "");
  refuse(missing.map((field) => ({ field: `cluster.${field}`, description: `cluster.${field} is required.` })));
  return named(wanted.name, () =>
    once(
      ports.db,
      {
        principal: caller.principal,
        method: "CreateCluster",
        key: request.requestId,
        request,
        requestSchema: CreateClusterRequestSchema,
        responseSchema: ClusterSchema,
      },
      async (work) => {
        const id = newId("cluster");
        if (wanted.isDefault) await moveDefault(work.tx, id);
        await work.tx
          .insertInto("clusters")
          .values({ id, runtime: wanted.runtime, ...columnsOf(wanted) })
          .execute();
        const row = await getCluster(work.tx, caller.principal, id);
        await record(ports, work, caller, "cluster.create", undefined, clusterOf(row));
        return clusterOf(row, nobody);
      },
    ),
  );
}

/** Returns the cluster's id. */
async function updateCluster(ports: ClusterPorts, caller: Caller, request: UpdateClusterRequest): Promise<string> {
  const patch = request.cluster ?? create(ClusterSchema);
  if (patch.id === "") refuse([{ field: "cluster.id", description: "cluster.id is required: an id or a name." }]);
  return named(patch.name, () =>
    transact(ports.db, async (work) => {
      const row = await locked(work, patch.id);
      if (row.deleting) throw problem("CLUSTER_DELETING", `The cluster ${row.name} is being deleted.`);
      guardEtag(patch.etag, row.version);
      const before = clusterOf(row);
      const mask = request.updateMask;
      const after = updated({
        schema: ClusterSchema,
        before,
        patch,
        mask,
        changeable,
        fixed: ["runtime"],
        at: "cluster",
      });
      if (after.name === "") refuse([{ field: "cluster.name", description: "A cluster has a name." }]);
      if (after.isDefault && !before.isDefault) await moveDefault(work.tx, row.id);
      await work.tx
        .updateTable("clusters")
        .set({ ...columnsOf(after), version: sql`version + 1`, updated_at: sql`now()` })
        .where("id", "=", row.id)
        .execute();
      const written = clusterOf(await getCluster(work.tx, caller.principal, row.id));
      await record(ports, work, caller, "cluster.update", before, written);
      return row.id;
    }),
  );
}

/** Grants or takes back; what is so already stays. Returns the cluster's id. */
async function changeGrant(
  ports: ClusterPorts,
  caller: Caller,
  verb: "grant" | "ungrant",
  request: { id: string; organisationId: string },
): Promise<string> {
  return transact(ports.db, async (work) => {
    // FOR UPDATE: a publish that holds the row FOR SHARE has its answer about the grant.
    const row = await locked(work, request.id);
    const organisationId =
      request.organisationId === everyone ? everyone : (await getOrganisation(work.tx, request.organisationId)).id;
    if (row.grants.includes(organisationId) === (verb === "grant")) return row.id;
    if (verb === "grant") {
      await work.tx
        .insertInto("cluster_grants")
        .values({ cluster_id: row.id, organisation_id: organisationId })
        .execute();
    } else {
      await work.tx
        .deleteFrom("cluster_grants")
        .where("cluster_id", "=", row.id)
        .where("organisation_id", "=", organisationId)
        .execute();
    }
    await work.tx
      .updateTable("clusters")
      .set({ version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", row.id)
      .execute();
    const after = clusterOf(await getCluster(work.tx, caller.principal, row.id));
    await record(ports, work, caller, `cluster.${verb}`, clusterOf(row), after);
    return row.id;
  });
}

async function locked(work: Work, idOrName: string): Promise<ClusterRow> {
  const row = await lockCluster(work.tx, idOrName, "update");
  if (row === undefined) throw problem("NOT_FOUND", `There is no cluster ${idOrName}.`);
  return row;
}

async function record(
  ports: ClusterPorts,
  work: Work,
  caller: Caller,
  action: string,
  before: Cluster | undefined,
  after: Cluster,
): Promise<void> {
  await audit(ports.events, work, caller, {
    action,
    resourceKind: "cluster",
    resourceId: after.id,
    organisationId: "",
    before: before === undefined ? undefined : toJson(ClusterSchema, before),
    after: toJson(ClusterSchema, after),
  });
}

function refuse(violations: readonly Violation[]): void {
  if (violations.length > 0) throw problem("INVALID_ARGUMENT", violations[0]?.description, { violations });
}

async function named<T>(name: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (uniqueViolation(error) === "clusters_name_key") {
      throw problem("ALREADY_EXISTS", `There is a cluster ${name} already.`);
    }
    throw error;
  }
}
