/**
 * The database as a witness: triggers write each step of each command, in the
 * transaction that makes it. What is committed is seen, what is not is not, and
 * none is missed between two looks.
 */
import { fromBinary } from "@bufbuild/protobuf";
import type { Database } from "@bowline/db";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { type Kysely, sql } from "kysely";
import { contentOf } from "../agent/content.ts";
import type { Step } from "../history/events.ts";
import type { History } from "../history/history.ts";

/** A schema of its own: no statement of Bowline's sees it. */
const install = `
CREATE SCHEMA IF NOT EXISTS witness;
CREATE TABLE IF NOT EXISTS witness.steps (number bigserial PRIMARY KEY, at timestamptz NOT NULL, cluster_id text, step jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS witness.rewritten (deployment_id text NOT NULL, generation integer NOT NULL, at timestamptz NOT NULL);
CREATE OR REPLACE FUNCTION witness.note_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE before command_states; the_command commands; the_session sessions;
BEGIN
  IF TG_OP = 'UPDATE' THEN before := OLD; END IF;
  SELECT * INTO the_command FROM commands WHERE id = NEW.command_id;
  SELECT * INTO the_session FROM sessions WHERE agent_id = NEW.agent_id;
  INSERT INTO witness.steps (at, cluster_id, step) VALUES (clock_timestamp(), the_command.cluster_id, jsonb_build_object(
    'transaction', pg_current_xact_id()::text, 'command', NEW.command_id, 'deployment', NEW.deployment_id,
    'agent', NEW.agent_id, 'generation', the_command.generation,
    'from', coalesce(before.state, ''), 'to', NEW.state,
    'attemptBefore', coalesce(before.attempt, 0), 'attempt', NEW.attempt,
    'epochBefore', before.bound_epoch, 'epoch', NEW.bound_epoch,
    'sessionEpoch', the_session.epoch, 'sessionState', coalesce(the_session.state, ''),
    'outcomeAttemptBefore', before.outcome_attempt, 'outcomeAttempt', NEW.outcome_attempt, 'reason', NEW.reason));
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION witness.note_rewritten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.rewritten VALUES (NEW.deployment_id, NEW.generation, clock_timestamp());
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER witness_steps AFTER INSERT OR UPDATE ON command_states FOR EACH ROW EXECUTE FUNCTION witness.note_step();
CREATE OR REPLACE TRIGGER witness_rewritten AFTER UPDATE ON deployment_generations FOR EACH ROW
  WHEN (NEW.spec IS DISTINCT FROM OLD.spec OR NEW.digest IS DISTINCT FROM OLD.digest) EXECUTE FUNCTION witness.note_rewritten();
`;

export interface WitnessedStep {
  number: string;
  at: Date;
  cluster_id: string;
  step: Omit<Step, "kind" | "number">;
}

/** `before`: what a database has seen that this one is a copy of. */
export async function installWitness(db: Kysely<Database>, before: readonly WitnessedStep[] = []): Promise<void> {
  await sql.raw(install).execute(db);
  for (const { at, cluster_id: cluster, step } of before)
    await sql`INSERT INTO witness.steps (at, cluster_id, step) VALUES (${at}, ${cluster}, ${JSON.stringify(step)})`.execute(
      db,
    );
}

/** The steps of these clusters, in their order. */
export async function witnessed(db: Kysely<Database>, clusterIds: readonly string[]): Promise<WitnessedStep[]> {
  const steps = await sql<WitnessedStep>`
    SELECT number, at, cluster_id, step FROM witness.steps WHERE cluster_id = ANY(${clusterIds}) ORDER BY number`.execute(
    db,
  );
  return steps.rows;
}

/** Appends what the database knows of these clusters: all steps, how commands stand, and every stored generation. */
export async function testify(db: Kysely<Database>, clusterIds: readonly string[], history: History): Promise<void> {
  for (const { number, at, step } of await witnessed(db, clusterIds)) {
    history.append({ kind: "step", number: Number(number), ...step }, at.getTime());
  }
  const generations = await db
    .selectFrom("deployment_generations as g")
    .innerJoin("deployments as d", "d.id", "g.deployment_id")
    .select(["g.deployment_id", "g.generation", "g.spec"])
    .where("d.cluster_id", "in", [...clusterIds])
    .execute();
  for (const { deployment_id: deployment, generation, spec: bytes } of generations) {
    const spec = fromBinary(DeploymentSchema, bytes);
    history.append({ kind: "spec", deployment, generation, content: contentOf(spec), versions: versionsOf(bytes) });
  }
  const rewritten = await sql<{ deployment_id: string; generation: number }>`
    SELECT r.* FROM witness.rewritten r JOIN deployments d ON d.id = r.deployment_id
    WHERE d.cluster_id = ANY(${clusterIds})`.execute(db);
  for (const { deployment_id: deployment, generation } of rewritten.rows)
    history.append({ kind: "rewritten", deployment, generation });
  const commands = await db
    .selectFrom("commands as c")
    .innerJoin("command_states as s", "s.command_id", "c.id")
    .select(["c.id", "c.deployment_id", "c.agent_id", "c.generation", "c.is_removal", "c.created_by"])
    .select(["s.state", "s.attempt", "s.reason"])
    .where("c.cluster_id", "in", [...clusterIds])
    .execute();
  for (const one of commands) {
    const { id: command, deployment_id: deployment, agent_id: agent, generation, state, attempt, reason } = one;
    const more = { removal: one.is_removal, createdBy: one.created_by };
    history.append({ kind: "command", command, deployment, agent, generation, state, attempt, reason, ...more });
  }
}

/** Values of `x-version` that routes set, as the publishers of scenarios mark them. */
function versionsOf(bytes: Uint8Array): string[] {
  const { routes } = fromBinary(DeploymentSchema, bytes);
  const text = JSON.stringify(routes ?? {}, (_, value: unknown) => (typeof value === "bigint" ? Number(value) : value));
  return [...new Set([...text.matchAll(/"name":"x-version","value":"([^"]+)"/g)].map(([, version = ""]) => version))];
}
