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
import { sql } from "kysely";
import { type Batcher, createBatcher } from "../platform/batches.ts";
import type { SealedCredentials } from "../registries/index.ts";
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
  read: FetchReader;
  misuse: Pick<Misuse, "note">;
  /** Values of secrets, by name, sealed to that key; versions as the generation's row has them. */
  sealSecrets(versions: Readonly<Record<string, string>>, key: PublicJwk): Promise<Sealed>;
  /** Credentials of an organisation's registries, by host, sealed to that key. */
  sealRegistries(organisationId: string, hosts: readonly string[], key: PublicJwk): Promise<SealedCredentials>;
  warn(details: object, message: string): void;
}

interface Wanted {
  claims: SessionClaims;
  /** Commands. */
  ids: readonly string[];
}

interface Read {
  /** Undefined: this is not the agent's session any more. */
  sealingKey: PublicJwk | undefined;
  rows: Awaited<ReturnType<typeof readGenerations>>;
}

export type FetchReader = Pick<Batcher<Wanted, Read>, "add">;

/** Calls that wait for the look before theirs: seconds of it. */
const maxWaiting = 5_000;
/** Calls in one look, and commands of each: their specs are in memory together. */
const maxTogether = 25;
const maxIdsTogether = 4;

/** Fetches of one moment share two statements. */
export function createFetchReader(db: Db): FetchReader {
  const together = createBatcher<Wanted, Read>((wanted) => readAll(db, wanted), {
    maxWaiting,
    maxSet: maxTogether,
    overloaded: () => problem("OVERLOADED", "More fetches wait for the database than this replica takes."),
    everybodys: () => true,
  });
  return {
    async add(wanted) {
      if (wanted.ids.length <= maxIdsTogether) return together.add(wanted);
      const [read] = await readAll(db, [wanted]);
      if (read === undefined) throw problem("INTERNAL");
      return read;
    },
  };
}

async function readAll(db: Db, wanted: readonly Wanted[]): Promise<Read[]> {
  const column = <T>(read: (claims: SessionClaims) => T): T[] => wanted.map(({ claims }) => read(claims));
  const { rows: sessions } = await sql<{ place: number; sealing_key: PublicJwk }>`
    SELECT n.place::int AS place, a.sealing_key
    FROM unnest(${column((c) => c.agentId)}::text[], ${column((c) => c.epoch)}::int[],
      ${column((c) => c.sessionId)}::text[]) WITH ORDINALITY AS n (agent_id, epoch, id, place)
    JOIN sessions AS s ON s.agent_id = n.agent_id AND s.epoch = n.epoch AND s.id = n.id AND s.state <> 'ENDED'
    JOIN agents AS a ON a.id = s.agent_id AND a.state = 'ENROLLED'`.execute(db);
  const keys = new Map(sessions.map((session) => [session.place - 1, session.sealing_key]));
  const rows = await readGenerations(
    db,
    wanted.flatMap(({ claims, ids }, place) => (keys.has(place) ? ids.map((id) => ({ id, claims, place })) : [])),
  );
  const byPlace = Map.groupBy(rows, (row) => row.place);
  return wanted.map((_, place) => ({ sealingKey: keys.get(place), rows: byPlace.get(place) ?? [] }));
}

async function readGenerations(db: Db, wanted: readonly { id: string; claims: SessionClaims; place: number }[]) {
  if (wanted.length === 0) return [];
  const { rows } = await sql<{
    place: number;
    id: string;
    attempt: number;
    deployment_id: string;
    generation: number;
    digest: string;
    spec: Buffer;
    secrets: Record<string, string>;
    registries: string[];
    organisation_id: string;
  }>`
    SELECT n.place, c.id, s.attempt, c.deployment_id, c.generation, g.digest, g.spec, g.secrets, g.registries,
      c.organisation_id
    FROM unnest(${wanted.map((one) => one.id)}::text[], ${wanted.map((one) => one.claims.agentId)}::text[],
      ${wanted.map((one) => one.claims.epoch)}::int[], ${wanted.map((one) => one.place)}::int[])
      AS n (id, agent_id, epoch, place)
    JOIN command_states AS s ON s.command_id = n.id AND s.agent_id = n.agent_id AND s.bound_epoch = n.epoch
      AND s.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING')
    JOIN commands AS c ON c.id = s.command_id
    -- E5: the command's generation, not the deployment's.
    JOIN deployment_generations AS g ON g.deployment_id = c.deployment_id AND g.generation = c.generation`.execute(db);
  return rows;
}

/** Throws SESSION_EXPIRED where another session took over or the agent may not come back. */
export async function fetchDeployments(
  ports: FetchPorts,
  claims: SessionClaims,
  request: { items: readonly Pick<FetchDeploymentsRequest["items"][number], "commandId" | "attempt">[] },
): Promise<MessageInitShape<typeof FetchDeploymentsResponseSchema>> {
  const { sealingKey, rows } = await ports.read.add({ claims, ids: request.items.map((item) => item.commandId) });
  if (sealingKey === undefined) {
    await noteGone(ports, claims.agentId);
    throw problem("SESSION_EXPIRED");
  }
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
    const sealed = named ? await ports.sealSecrets(row.secrets, sealingKey) : nothingToSeal;
    const about = { commandId, attempt, deploymentId: row.deployment_id, generation: row.generation };
    if (!sealed.ok) {
      deployments.push({ ...about, ...unreadable(ports, commandId, sealed) }); // E6
      continue;
    }
    const credentials =
      row.registries.length > 0
        ? await ports.sealRegistries(row.organisation_id, row.registries, sealingKey)
        : nothingToSeal;
    if (!credentials.ok) {
      deployments.push({ ...about, ...closedRegistry(ports, commandId, credentials) }); // E6
      continue;
    }
    const [sealedSecrets, sealedRegistries] = [sealed.values, credentials.values];
    bytes += row.spec.length + JSON.stringify([sealedSecrets, sealedRegistries]).length;
    if (bytes > maxAnswerBytes && deployments.length > 0) break; // the agent asks for the rest again
    deployments.push({ ...about, digest: row.digest, spec: row.spec, sealedSecrets, sealedRegistries });
  }
  return { deployments };
}

const nothingToSeal = { ok: true, values: {} } as const;

/** The agent answers with it that the command has failed. */
function unreadable(ports: Pick<FetchPorts, "warn">, commandId: string, sealed: Extract<Sealed, { ok: false }>) {
  const { secret, secretId, why } = sealed;
  ports.warn({ commandId, secret, secretId, why }, "a secret cannot be read; the command that needs it fails");
  return {
    reason: "SECRET_UNREADABLE",
    message: `The server cannot read the value of the secret ${secret} any more. Set it again (bowline secret set ${secret}), then publish again.`,
  };
}

/** The same of a registry's password. */
function closedRegistry(
  ports: Pick<FetchPorts, "warn">,
  commandId: string,
  { host, registryId, why }: Extract<SealedCredentials, { ok: false }>,
) {
  ports.warn(
    { commandId, registry: host, registryId, why },
    "a password cannot be read; the command that needs it fails",
  );
  return {
    reason: "SECRET_UNREADABLE",
    message: `The server cannot read the password of the registry ${host} any more. Set it again (bowline registry update ${host}), then apply again.`,
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
