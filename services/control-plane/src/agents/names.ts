/** Names of agents: what was asked for or the host's name, unique among the live ones of a cluster. */
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import { goneStates } from "./model.ts";

/** As the API's pattern allows: `^[a-z0-9][a-z0-9.-]{0,62}$`. */
const maxNameLength = 63;

/** A name from a host's name; `agent` where nothing of it can stay. */
export function nameOf(hostname: string): string {
  const name = hostname
    .toLowerCase()
    .replaceAll(/[^a-z0-9.-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .slice(0, maxNameLength)
    .replace(/[.-]+$/, "");
  return name === "" ? "agent" : name;
}

/** Names that a transaction has read, by cluster and what they begin with. */
export type KnownNames = Map<string, Set<string>>;

/**
 * `wanted`, or with -2, -3, … the first that no live agent of the cluster has. The caller holds the cluster's row; `known`
 * is the transaction's, and has the name afterwards.
 */
export async function uniqueName(tx: Tx, clusterId: string, wanted: string, known: KnownNames): Promise<string> {
  const start = wanted.slice(0, maxNameLength - 8);
  const key = `${clusterId} ${start}`;
  const taken = known.get(key) ?? (await namesThatStart(tx, clusterId, start));
  known.set(key, taken);
  let name = wanted;
  for (let number = 2; taken.has(name); number += 1) {
    const suffix = `-${number}`;
    name = wanted.slice(0, maxNameLength - suffix.length) + suffix;
  }
  for (const [other, names] of known) if (`${clusterId} ${name}`.startsWith(other)) names.add(name);
  return name;
}

/** Of live agents. */
async function namesThatStart(tx: Tx, clusterId: string, start: string): Promise<Set<string>> {
  const rows = await tx
    .selectFrom("agents")
    .select("name")
    .where("cluster_id", "=", clusterId)
    .where("state", "not in", goneStates)
    // Suffixed names share all but what the suffix took from the end.
    .where(sql<boolean>`starts_with(name, ${start})`)
    .execute();
  return new Set(rows.map((row) => row.name));
}
