/**
 * What a scenario's Bowline has before it is measured: a cluster, agents
 * enrolled over the API, and deployments of theirs. The deployments are written
 * as rows and belong to no slice, so that what is measured is the engine: a
 * publish's own cost is measured by scenarios/publishes.ts.
 */
import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { DeploymentSchema } from "@bowline/contract/deployments";
import type { TestServer } from "@bowline/testing";
import { sql } from "kysely";
import type { LoadCalls } from "../load/main.ts";
import type { Child } from "./child.ts";
import { benchSpec } from "./specs.ts";

/** Enrolments into one cluster come one after the other: thousands of agents are in many clusters. */
const agentsInCluster = 256;

/** Enrols a group of agents at that server; their ids. */
export async function enrolGroup(
  server: TestServer,
  load: Child<LoadCalls>,
  { group, count }: { group: string; count: number },
): Promise<string[]> {
  const tokens: string[] = [];
  for (let number = 0; number < Math.ceil(count / agentsInCluster); number += 1) {
    const cluster = {
      name: `${asClusterName(group)}-${number}`,
      runtime: "local",
      policy: { allowBulkEnrolment: true },
    };
    const { id } = await server.client(ClusterService).createCluster({ cluster });
    const tokensOf = server.client(RegistrationTokenService);
    tokens.push((await tokensOf.createRegistrationToken({ clusterId: id, maxUses: agentsInCluster })).token);
  }
  return load.call("enrol", { group, url: server.url, tokens, count });
}

const asClusterName = (group: string): string => `bench-${group.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}`;

/** Adds `each` deployments to each of the agents, converged; by turns of the agents. */
export async function addDeployments(
  { database: { db } }: TestServer,
  agentIds: readonly string[],
  each: number,
  prefix = "deployment_bench",
): Promise<string[]> {
  const spec = Buffer.from(toBinary(DeploymentSchema, create(DeploymentSchema, benchSpec)));
  const digest = createHash("sha256").update(spec).digest("hex");
  const ids = Array.from(
    { length: agentIds.length * each },
    (_, index) => `${prefix}_${String(index).padStart(6, "0")}`,
  );
  const agents = ids.map((_, index) => agentIds[index % agentIds.length] ?? "");
  await sql`
    INSERT INTO deployments (id, agent_id, cluster_id, kind, owner_id, desired, generation, observed_generation, observed_digest)
    SELECT n.id, a.id, a.cluster_id, 'bench', 'bench', 'RUNNING', 1, 1, ${digest}
    FROM unnest(${ids}::text[], ${agents}::text[]) AS n (id, agent_id) JOIN agents AS a ON a.id = n.agent_id`.execute(
    db,
  );
  await sql`
    INSERT INTO deployment_generations (deployment_id, generation, spec, digest)
    SELECT id, 1, ${spec}, ${digest} FROM unnest(${ids}::text[]) AS n (id)`.execute(db);
  return ids;
}
