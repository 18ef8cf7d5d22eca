/** Who has a secret, or an image of a registry: what is to be there, and what commands that have not ended will bring. */
import { fromBinary } from "@bufbuild/protobuf";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { problem, type Reason } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";

/** What is asked for: a secret in any version, or a registry's host in an organisation. */
export type Used = { secretId: string } | { organisationId: string; host: string };

/** Users that a message names; there may be more. */
const maxNamed = 5;

/** Throws with `reason` where something has it; the message begins with `what` and names who has it. */
export async function refuseWhileUsed(tx: Tx, used: Used, reason: Reason, what: string): Promise<void> {
  const users = await usersOf(tx, used);
  if (users.length === 0) return;
  const named = users.slice(0, maxNamed).join(", ");
  const more = users.length > maxNamed ? " and others" : "";
  throw problem(reason, `${what} is in use by ${named}${more}. Change or remove that first, or force it.`, {
    metadata: { users: users.slice(0, maxNamed).join(",") },
  });
}

async function usersOf(tx: Tx, used: Used): Promise<string[]> {
  const has =
    "secretId" in used
      ? sql`g.secrets <> '{}' AND EXISTS (SELECT 1 FROM jsonb_each_text(g.secrets) AS made
          WHERE starts_with(made.value, ${`${used.secretId}/`}))`
      : sql`d.organisation_id = ${used.organisationId} AND g.registries @> ${JSON.stringify([used.host])}::jsonb`;
  const { rows } = await sql<{ spec: Buffer; kind: string; owner_id: string }>`
    SELECT DISTINCT ON (d.kind, d.owner_id) g.spec, d.kind, d.owner_id
    FROM deployment_generations AS g JOIN deployments AS d ON d.id = g.deployment_id
    WHERE ${has}
      AND (d.generation = g.generation AND NOT d.is_absent OR EXISTS (
        SELECT 1 FROM command_states AS s JOIN commands AS c ON c.id = s.command_id
        WHERE s.deployment_id = d.id AND s.ended_at IS NULL AND c.generation = g.generation))
    ORDER BY d.kind, d.owner_id LIMIT ${maxNamed + 1}`.execute(tx);
  return [...new Set(rows.map(nameOf))];
}

/** As people know it: specs say it in their labels and routes. */
function nameOf({ spec, kind, owner_id }: { spec: Buffer; kind: string; owner_id: string }): string {
  const { labels, routes } = fromBinary(DeploymentSchema, spec);
  const stack = labels["bowline.stack"];
  if (stack !== undefined) return `stack ${stack}`;
  return routes === undefined ? `${kind} ${owner_id}` : `product ${routes.product}`;
}
