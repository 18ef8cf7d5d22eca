/**
 * Owners' slices that throw. What an agent did is true whatever a slice makes of
 * it: after some tries it is recorded without the slice, and the slice is told apart.
 *
 * A1: what is recorded without its owner says so (`domain_error`), in the same
 *     transaction, and stays so until the owner was told.
 * A2: the owner is told what the command is by then, not what it was.
 */
import { sql } from "kysely";
import { lockDeployments } from "../deployments/index.ts";
import { isDatabaseAway, problemOf } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import type { ChangedCommand, EnginePorts } from "./ports.ts";
import { type ChangeSet, lockCommands, tellOwners, write } from "./store.ts";

/** Tells owners what changed, in the same transaction. */
export type Tell = (work: Work, changes: readonly ChangedCommand[]) => Promise<void>;

/** With what owners' slices failed before: this time it is recorded without them. Undefined: they are told. */
export interface Without {
  ownersFor: unknown;
}

/** Of an error's text: enough to find it in the log. */
const maxErrorLength = 500;
/** Told per round: each has a transaction of its own. */
const batch = 100;

export function telling(ports: EnginePorts, without: Without | undefined): Tell {
  return without === undefined
    ? (work, changes) => tellOwners(ports, work, changes)
    : setAside(ports, without.ownersFor);
}

/**
 * `finish` for what must happen whatever a slice makes of it: an agent comes, goes or never comes back. Where a slice
 * fails, nothing of what it did stays, and it is told apart.
 */
export async function finishAnyway(ports: EnginePorts, work: Work, set: ChangeSet): Promise<void> {
  await write(ports, work, set);
  if (set.changes.length === 0) return;
  await tellingAnyway(ports)(work, set.changes);
}

/** Tells the owners; where a slice fails, nothing of what it did stays, and it is told apart. */
export function tellingAnyway(ports: EnginePorts): Tell {
  return async (work, changes) => {
    if (changes.every((change) => !ports.owners.has(change.ownerKind))) return;
    await sql`SAVEPOINT owners`.execute(work.tx);
    try {
      await tellOwners(ports, work, changes);
      await sql`RELEASE SAVEPOINT owners`.execute(work.tx);
    } catch (error) {
      if (problemOf(error).reason === "DATABASE_UNAVAILABLE") throw error; // no slice is to blame
      await sql`ROLLBACK TO SAVEPOINT owners`.execute(work.tx);
      await setAside(ports, error)(work, changes);
    }
  };
}

/** Instead of telling the owners, whose slice failed with `error`: notes that they are to be told (A1). */
export function setAside(ports: EnginePorts, error: unknown): Tell {
  return async (work, changes) => {
    if (changes.length === 0) return;
    const text = String(error instanceof Error ? error.message : error).replaceAll("\0", "");
    const ids = changes.map(({ id }) => id);
    await work.tx
      .updateTable("command_states")
      .set({ domain_error: text.slice(0, maxErrorLength) || "unknown" })
      .where("command_id", "in", ids)
      .execute();
    work.after(() => {
      for (const command of ids) {
        ports.metrics?.defect("domain_error");
        ports.log.error({ error, command }, "recorded without its owner's slice, which is told again apart");
      }
    });
  };
}

/**
 * Tells owners what was set aside, one by one, from `place` on. Returns how many were told. Any replica may run it;
 * one that another replica has at hand is left to it.
 */
export async function tellApart(ports: EnginePorts, place: { from: string }): Promise<number> {
  const rows = await ports.db
    .selectFrom("command_states")
    .select(["command_id", "deployment_id"])
    .where("domain_error", "<>", "")
    .where("command_id", ">", place.from)
    .orderBy("command_id")
    .limit(batch)
    .execute();
  place.from = rows.length === batch ? (rows.at(-1)?.command_id ?? "") : "";
  let told = 0;
  for (const row of rows) {
    try {
      if (await tellOne(ports, row.command_id, row.deployment_id)) told += 1;
    } catch (error) {
      if (isDatabaseAway(error)) throw error;
      ports.log.error({ error, command: row.command_id }, "its owner's slice failed again; tried again");
    }
  }
  return told;
}

async function tellOne(ports: EnginePorts, commandId: string, deploymentId: string): Promise<boolean> {
  return transact(ports.db, async (work) => {
    await lockDeployments(work.tx, [deploymentId]); // E3
    const [command] = await lockCommands(work.tx, { ids: [commandId] });
    const { rows } = await sql<{ reason: string; message: string }>`
      UPDATE command_states SET domain_error = '' WHERE command_id = ${commandId} AND domain_error <> ''
      RETURNING reason, message`.execute(work.tx);
    const [words] = rows;
    if (command === undefined || words === undefined) return false; // another replica told it
    await tellOwners(ports, work, [{ ...command, ...words, from: command.state }]); // A2
    return true;
  });
}
