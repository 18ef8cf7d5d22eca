/** Rollouts in which old and new run side by side. Only adds. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `ALTER TABLE stacks
    ADD COLUMN stable_stamps jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN stable_secrets jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN colours jsonb NOT NULL DEFAULT '{}'`,
  `ALTER TABLE stack_targets
    ADD COLUMN stable_wanted jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN begun_phase text NOT NULL DEFAULT 'UPDATING',
    ADD COLUMN begun_at timestamptz NOT NULL DEFAULT now()`,
  `ALTER TABLE stack_rollouts
    ADD COLUMN phase text NOT NULL DEFAULT 'UPDATING',
    ADD COLUMN side_by_side jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN colours jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN promoted boolean NOT NULL DEFAULT false,
    ADD COLUMN at_rest boolean NOT NULL DEFAULT false,
    ADD COLUMN keep_until timestamptz`,
  // What is stable now, as far as it is known: where nothing newer is wanted.
  `UPDATE stacks SET stable_stamps = restart_stamps, stable_secrets = coalesce((SELECT r.secrets
      FROM stack_rollouts AS r WHERE r.stack_id = stacks.id AND r.state = 'SUCCEEDED' ORDER BY r.id DESC LIMIT 1), '{}')
    WHERE stable_revision > 0`,
  `UPDATE stack_targets AS t SET stable_wanted = t.wanted FROM stacks AS s
    WHERE s.id = t.stack_id AND s.stable_revision > 0 AND s.stable_revision = s.revision`,
];
