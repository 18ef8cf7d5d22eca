/** What is known, for people, of an agent's part that was not healthy in time. */
import { openCommandStates } from "@bowline/db";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import { serviceOfWorkload } from "./colours.ts";
import type { TargetRow } from "./rows.ts";

/** Services that are told of, and how long all of it may be: each may come with its last lines. */
const mostServices = 3;
const longestText = 6_000;

interface Known {
  agent: string;
  /** Of the command under way, if there is one: why its attempt before this one failed. */
  before: string | null;
  /** What it does. */
  workloads: { workload: string; phase: string; message: string }[] | null;
  /** What is not as it should be though no command is under way. */
  ill: { workload: string; phase: string; reason: string }[] | null;
}

/**
 * Lines that follow a deadline's message: what the agent said of those that it still waits for, else why the attempt
 * before failed, else what it observes. Empty: nothing is known.
 */
export async function latenessOf(tx: Tx, target: TargetRow): Promise<string> {
  const { rows } = await sql<Known>`
    SELECT a.name AS agent, cs.message AS before, cp.workloads,
      (SELECT jsonb_agg(jsonb_build_object('workload', i.workload, 'phase', i.phase, 'reason', i.reason)
          ORDER BY i.workload, i.index)
        FROM instances AS i WHERE i.deployment_id = ${target.deployment_id} AND ${target.state} = 'DONE'
          AND i.reason <> '' AND (i.phase <> 'RUNNING' OR i.health = 'UNHEALTHY')) AS ill
    FROM agents AS a
    LEFT JOIN command_states AS cs ON cs.command_id = ${target.command_id}
      AND cs.state = ANY(${[...openCommandStates]})
    LEFT JOIN command_progress AS cp ON cp.command_id = cs.command_id AND cp.attempt = cs.attempt
      AND cs.state <> 'RETRY_WAIT'
    WHERE a.id = ${target.agent_id}`.execute(tx);
  const [known] = rows;
  if (known === undefined) return "";
  const waits = (known.workloads ?? []).filter(({ message }) => message !== "");
  const said = waits.length > 0 ? waits : (known.ill ?? []).map(({ reason, ...one }) => ({ ...one, message: reason }));
  const lines =
    waits.length === 0 && known.before ? [known.before] : said.slice(0, mostServices).map((one) => textOf(target, one));
  return lines
    .map((line) => `\n${known.agent}: ${line}`)
    .join("")
    .slice(0, longestText);
}

/** What waits to be healthy says so itself. */
function textOf(target: TargetRow, at: { workload: string; phase: string; message: string }): string {
  const service = serviceOfWorkload(at.workload, Object.keys(target.wanted)) ?? at.workload;
  return at.phase === "STARTING" ? `${service} ${at.message}` : `${service} ${at.phase.toLowerCase()}: ${at.message}`;
}
