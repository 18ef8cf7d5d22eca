/**
 * What happened on a host: one fsynced line per effect, written by whoever had
 * it. The host's state is the sum of its lines, so that an effect and its record
 * cannot come apart: a process that is killed has had the effect, or has not.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";

export const effects = ["begun", "applied", "adopted", "removed", "ended"] as const;

export interface LedgerLine {
  /** ms since 1970, of a clock that no scenario moves. */
  at: number;
  pid: number;
  what: (typeof effects)[number];
  deployment: string;
  generation: number;
  /** Of `applied` and `adopted`: a digest of what was made true. */
  content: string;
  /** Whether the runtime has it (a data plane), or the data plane (routes). */
  part: "workload" | "routes";
}

export type Standing = Pick<LedgerLine, "generation" | "content" | "part">;

const fileName = "ledger.jsonl";

/** The lines of a host; a last one that was cut off by a crash did not happen. */
export function readLedger(host: string): LedgerLine[] {
  const file = join(host, fileName);
  if (!existsSync(file)) return [];
  const whole = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return whole.map((line) => JSON.parse(line) as LedgerLine);
}

/** What stands on a host after these lines. */
export function standingAfter(lines: readonly LedgerLine[]): Map<string, Standing> {
  const standing = new Map<string, Standing>();
  for (const { what, deployment, generation, content, part } of lines) {
    if (what === "applied") standing.set(deployment, { generation, content, part });
    if (what === "removed") standing.delete(deployment);
  }
  return standing;
}

export interface Ledger {
  standing: ReadonlyMap<string, Standing>;
  write(line: Pick<LedgerLine, "what" | "deployment" | "generation" | "content" | "part">): void;
}

/** `Date` may be shifted by a scenario (shifted-clock.ts); this is not. */
const unshiftedNow = (): number => performance.timeOrigin + performance.now();

/** Opens a host's ledger for one process; a line that was cut off before is ended. */
export function openLedger(host: string): Ledger {
  mkdirSync(host, { recursive: true, mode: 0o700 });
  const lines = readLedger(host);
  const standing = standingAfter(lines);
  return {
    standing,
    write(about) {
      const line: LedgerLine = { at: unshiftedNow(), pid: process.pid, ...about };
      const file = openSync(join(host, fileName), "a", 0o600);
      try {
        writeSync(file, `${JSON.stringify(line)}\n`);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      if (line.what === "applied") standing.set(line.deployment, line);
      if (line.what === "removed") standing.delete(line.deployment);
    },
  };
}
