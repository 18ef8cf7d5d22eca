/**
 * FetchDeployments: the specs of commands that are in flight for a session.
 *
 * E5: a fetch names command and attempt and gets that generation's bytes, or
 *     NOT_IN_FLIGHT; never a newer generation's.
 * E6: what is wrong with one command's secrets is that command's: the others
 *     get their bytes.
 */
import type {
  FetchDeploymentsRequest,
  FetchDeploymentsResponseSchema,
  FetchedDeploymentSchema,
} from "@bowline/contract/agent";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { PublicJwk } from "@bowline/auth";
import { problem } from "@bowline/kernel";
import type { Sealed } from "../secrets/index.ts";
import type { Db } from "../platform/transactions.ts";
import type { Misuse } from "./misuse.ts";

/** Below the 4 MiB of a unary message, with room for the envelope. */
const maxAnswerBytes = 3 * 1024 * 1024;

export interface SessionClaims {
  agentId: string;
  sessionId: string;
  epoch: number;
}

export interface FetchPorts {
  db: Db;
  misuse: Pick<Misuse, "note">;
  /** Values of secrets, by name, sealed to that key; versions as the generation's row has them. */
  sealSecrets(versions: Readonly<Record<string, string>>, key: PublicJwk): Promise<Sealed>;
  warn(details: object, message: string): void;
}

/** Throws SESSION_EXPIRED where another session took over or the agent may not come back. */
export async function fetchDeployments(
  ports: FetchPorts,
  claims: SessionClaims,
  request: { items: readonly Pick<FetchDeploymentsRequest["items"][number], "commandId" | "attempt">[] },
): Promise<MessageInitShape<typeof FetchDeploymentsResponseSchema>> {
  const { db } = ports;
  const session = await db
    .selectFrom("sessions as s")
    .innerJoin("agents as a", "a.id", "s.agent_id")
    .select(["s.id", "a.sealing_key"])
    .where("s.agent_id", "=", claims.agentId)
    .where("s.epoch", "=", claims.epoch)
    .where("s.id", "=", claims.sessionId)
    .where("s.state", "<>", "ENDED")
    .where("a.state", "=", "ENROLLED")
    .executeTakeFirst();
  if (session === undefined) {
    await noteGone(ports, claims.agentId);
    throw problem("SESSION_EXPIRED");
  }
  const rows = await db
    .selectFrom("command_states as s")
    .innerJoin("commands as c", "c.id", "s.command_id")
    .innerJoin("deployment_generations as g", (join) =>
      // E5: the command's generation, not the deployment's.
      join.onRef("g.deployment_id", "=", "c.deployment_id").onRef("g.generation", "=", "c.generation"),
    )
    .select(["c.id", "s.attempt", "c.deployment_id", "c.generation", "g.digest", "g.spec", "g.secrets"])
    .where(
      "c.id",
      "in",
      request.items.map((item) => item.commandId),
    )
    .where("s.agent_id", "=", claims.agentId)
    .where("s.bound_epoch", "=", claims.epoch)
    .where("s.state", "in", ["ASSIGNED", "RUNNING", "CANCELLING"])
    .execute();
  const found = new Map(rows.map((row) => [row.id, row]));
  const missing = request.items.filter(({ commandId }) => !found.has(commandId));
  if (missing.length > 0)
    await noteForeign(
      ports,
      claims.agentId,
      "commands",
      missing.map(({ commandId }) => commandId),
    );
  let bytes = 0;
  const deployments: MessageInitShape<typeof FetchedDeploymentSchema>[] = [];
  for (const { commandId, attempt } of request.items) {
    const row = found.get(commandId);
    if (row === undefined || row.attempt !== attempt) {
      deployments.push({ commandId, attempt, reason: "NOT_IN_FLIGHT" });
      continue;
    }
    const named = Object.keys(row.secrets).length > 0;
    const sealed = named ? await ports.sealSecrets(row.secrets, session.sealing_key as PublicJwk) : nothingToSeal;
    const about = { commandId, attempt, deploymentId: row.deployment_id, generation: row.generation };
    if (!sealed.ok) {
      deployments.push({ ...about, ...unreadable(ports, commandId, sealed) }); // E6
      continue;
    }
    const { values: sealedSecrets } = sealed;
    bytes += row.spec.length + JSON.stringify(sealedSecrets).length;
    if (bytes > maxAnswerBytes && deployments.length > 0) break; // the agent asks for the rest again
    deployments.push({ ...about, digest: row.digest, spec: row.spec, sealedSecrets });
  }
  return { deployments };
}

const nothingToSeal: Sealed = { ok: true, values: {} };

/** The agent answers with it that the command has failed. */
function unreadable(ports: Pick<FetchPorts, "warn">, commandId: string, sealed: Extract<Sealed, { ok: false }>) {
  const { secret, secretId, why } = sealed;
  ports.warn({ commandId, secret, secretId, why }, "a secret cannot be read; the command that needs it fails");
  return {
    reason: "SECRET_UNREADABLE",
    message: `The server cannot read the value of the secret ${secret} any more. Set it again (bowline secret set ${secret}), then publish again.`,
  };
}

/** An access token outlives its agent by minutes: whoever uses it then has kept or stolen it. */
async function noteGone({ db, misuse }: Pick<FetchPorts, "db" | "misuse">, agentId: string): Promise<void> {
  const agent = await db.selectFrom("agents").select("state").where("id", "=", agentId).executeTakeFirst();
  if (agent?.state === "REVOKED") misuse.note(agentId, "AGENT_REVOKED");
  if (agent?.state === "RETIRED") misuse.note(agentId, "AGENT_RETIRED");
}

/** Notes what an agent asked for that is another's. What does not exist is nobody's. */
export async function noteForeign(
  { db, misuse }: Pick<FetchPorts, "db" | "misuse">,
  agentId: string,
  kind: "commands" | "deployments",
  ids: readonly string[],
): Promise<void> {
  const foreign = await db
    .selectFrom(kind)
    .select("id")
    .where("id", "in", ids)
    .where("agent_id", "<>", agentId)
    .executeTakeFirst();
  if (foreign === undefined) return;
  misuse.note(agentId, kind === "commands" ? "FOREIGN_COMMAND" : "FOREIGN_DEPLOYMENT", { about: foreign.id });
}
