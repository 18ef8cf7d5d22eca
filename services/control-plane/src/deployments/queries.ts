/** Reads of deployments for people: desired beside observed. */
import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  Deployment_Desired,
  DeploymentSchema,
  type DeploymentStatus,
  DeploymentStatusSchema,
  type ListDeploymentsRequest,
  type ObservedInstance,
  ObservedInstanceSchema,
} from "@bowline/contract/deployments";
import { sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";
import type { DesiredName } from "./store.ts";

type Filter = Partial<Pick<ListDeploymentsRequest, "clusterId" | "agentId" | "includeAbsent">> & { id?: string };

function select(db: Db, principal: Principal, filter: Filter) {
  let query = db
    .selectFrom("deployments as d")
    .innerJoin("agents as a", "a.id", "d.agent_id")
    .innerJoin("clusters as c", "c.id", "d.cluster_id");
  if (!seesAll(principal)) query = query.where("d.organisation_id", "=", principal.organisationId);
  const { clusterId, agentId, id } = filter;
  if (clusterId)
    query = query.where((where) => where.or([where("c.id", "=", clusterId), where("c.name", "=", clusterId)]));
  if (agentId) query = query.where((where) => where.or([where("a.id", "=", agentId), where("a.name", "=", agentId)]));
  if (id !== undefined) query = query.where("d.id", "=", id);
  else if (!filter.includeAbsent) query = query.where("d.is_absent", "=", false);
  return query;
}

function columns(query: ReturnType<typeof select>) {
  return query.selectAll("d").select("a.name as agent");
}

type Row = Awaited<ReturnType<ReturnType<typeof columns>["execute"]>>[number];

/** One deployment with its newest spec; undefined where there is none that the principal may see. */
export async function readDeployment(db: Db, principal: Principal, id: string): Promise<DeploymentStatus | undefined> {
  const row = await columns(select(db, principal, { id })).executeTakeFirst();
  if (row === undefined) return undefined;
  const [status] = await withInstances(db, [row]);
  const generation = await db
    .selectFrom("deployment_generations")
    .select("spec")
    .where("deployment_id", "=", id)
    .where("generation", "=", row.generation)
    .executeTakeFirst();
  if (status !== undefined && generation !== undefined) {
    status.spec = fromBinary(DeploymentSchema, generation.spec);
    status.spec.sealedSecrets = {};
  }
  return status;
}

export async function listDeployments(db: Db, principal: Principal, request: ListDeploymentsRequest) {
  const size = pageSize(request.pageSize);
  const after = pageKey("deployments", request.pageToken, 1);
  let query = columns(select(db, principal, request));
  if (after !== undefined) query = query.where("d.id", "<", after[0] ?? "");
  const rows = await query
    .orderBy("d.id", "desc")
    .limit(size + 1)
    .execute();
  const page = cutPage(rows, size, "deployments", (row) => [row.id]);
  const total = request.returnTotalSize
    ? (
        await select(db, principal, request)
          .select(sql<number>`count(*)::int`.as("count"))
          .executeTakeFirst()
      )?.count
    : undefined;
  return { deployments: await withInstances(db, page.rows), nextPageToken: page.nextPageToken, totalSize: total };
}

async function withInstances(db: Db, rows: readonly Row[]): Promise<DeploymentStatus[]> {
  const instances = await instancesOf(
    db,
    rows.map((row) => row.id),
  );
  return rows.map((row) =>
    create(DeploymentStatusSchema, {
      id: row.id,
      agentId: row.agent_id,
      agent: row.agent,
      clusterId: row.cluster_id,
      kind: row.kind,
      ownerId: row.owner_id,
      organisationId: row.organisation_id,
      desired: Deployment_Desired[row.desired as DesiredName],
      generation: row.generation,
      observedGeneration: row.observed_generation,
      drifted: row.drifted,
      heldReason: row.held_reason,
      createdAt: timestampFromDate(row.created_at),
      updatedAt: timestampFromDate(row.updated_at),
      instances: instances.get(row.id) ?? [],
    }),
  );
}

/** What agents observed of these, by deployment, in order. */
export async function instancesOf(db: Db, ids: readonly string[]): Promise<Map<string, ObservedInstance[]>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .selectFrom("instances")
    .select(["deployment_id", "workload", "index", "phase", "health", "restarts", "exit_code", "image", "reason"])
    .select(["generation", "observed_at", "ports"])
    .where("deployment_id", "=", sql<string>`any(${[...ids]})`)
    .orderBy("workload")
    .orderBy("index")
    .execute();
  const instances = new Map<string, ObservedInstance[]>();
  for (const row of rows) {
    const instance = create(ObservedInstanceSchema, {
      workload: row.workload,
      index: row.index,
      phase: row.phase,
      health: row.health,
      restarts: row.restarts,
      ...(row.exit_code === null ? {} : { exitCode: row.exit_code }),
      image: row.image,
      reason: row.reason,
      generation: row.generation,
      observedAt: timestampFromDate(row.observed_at),
      addresses: Object.fromEntries(
        (row.ports as { name: string; address: string; published: number }[]).map((port) => [
          port.name,
          `${port.address}:${port.published}`,
        ]),
      ),
    });
    const known = instances.get(row.deployment_id);
    if (known === undefined) instances.set(row.deployment_id, [instance]);
    else known.push(instance);
  }
  return instances;
}
