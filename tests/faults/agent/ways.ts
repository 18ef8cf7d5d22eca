/** How a ledger host behaves, as a scenario says in a file of it; read at each converge. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Ways {
  /** How long a converge takes before its effect. */
  workMs: number;
  /** Converges stand still before their effect until a later word says otherwise; read all the time. */
  held: boolean;
  /** The process is killed each time that this deployment is converged, before the effect. */
  killedBy: string;
  /** Converges fail so, worth a retry; empty: they succeed. */
  failsWith: string;
}

const usual: Ways = { workMs: 0, held: false, killedBy: "", failsWith: "" };
const fileName = "ways.json";

export function readWays(host: string): Ways {
  const file = join(host, fileName);
  return existsSync(file) ? { ...usual, ...(JSON.parse(readFileSync(file, "utf8")) as Partial<Ways>) } : usual;
}

/** Whole or not at all: an agent may read meanwhile. */
export function writeWays(host: string, ways: Partial<Ways>): void {
  const file = join(host, fileName);
  writeFileSync(`${file}.new`, JSON.stringify(ways));
  renameSync(`${file}.new`, file);
}
