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
import { isDatabaseAway } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import type { ChangedCommand, EnginePorts } from "./ports.ts";
import { lockCommands, tellOwners } from "./store.ts";

/** Tells owners what changed, in the same transaction. */
export type Tell = (work: Work, changes: readonly ChangedCommand[]) => Promise<void>;

/** Of an error's text: enough to find it in the log. */
const maxErrorLength = 500;
/** Told per round: each has a transaction of its own. */
const batch = 100;

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
