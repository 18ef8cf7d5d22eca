/**
 * What PostgreSQL is asked for one command, from the call to the recorded
 * result: its own log of every statement, counted. It tells where time goes
 * before anything is measured, and does not depend on the machine's load.
 */
import { readFile, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { createEndings } from "../harness/endings.ts";
import { openStand } from "../stand/stand.ts";
import { callers, readyBowline, warmUp } from "./dispatch.ts";

/** Two of each caller's: they have to fit into two files of PostgreSQL's log, of 4 MiB each. */
const commands = 2 * callers;
const warmUpMs = 4_000;
const withinMs = 60_000;
const reloadedMs = 500;
/** Rarer and shorter ones are in the sums only. */
const shownExecutions = 0.05;
const shownMs = 0.002;
/** Of a statement, for the table. */
const shownCharacters = 90;

interface Asked {
  statement: string;
  /** Executions per command. */
  executed: number;
  /** Of these, how often PostgreSQL had to read its text anew. */
  parsed: number;
  ms: number;
}

export async function statements({ json }: { json: boolean }): Promise<void> {
  const endings = createEndings((text) => void process.stderr.write(`${text}\n`));
  try {
    const stand = await openStand(endings);
    const load = stand.load();
    const { server } = await readyBowline(stand, load);
    const { db } = server.database;
    await warmUp({ quick: false }, load, "Bowline", warmUpMs);
    const { size } = await stat(stand.postgres.logFile);
    await sql`ALTER SYSTEM SET log_min_duration_statement = 0`.execute(db);
    await sql`ALTER SYSTEM SET log_parameter_max_length = 0`.execute(db);
    await sql`SELECT pg_reload_conf()`.execute(db);
    await sleep(reloadedMs);
    const run = await load.call("dispatch", { fleet: "Bowline", callers, forMs: withinMs, limit: commands });
    const log = await loggedSince(stand.postgres.logFile, size);
    const asked = counted(log, run.commands);
    process.stdout.write(json ? `${JSON.stringify({ commands: run.commands, asked })}\n` : table(asked));
  } finally {
    await endings.run();
  }
}

/** What was written to the log after its first `size` bytes, also where it has become its predecessor meanwhile. */
async function loggedSince(file: string, size: number): Promise<string> {
  const now = await readFile(file);
  const before = await readFile(`${file}.1`).catch(() => undefined); // there is none yet
  return Buffer.concat(before === undefined ? [now.subarray(size)] : [before.subarray(size), now]).toString("utf8");
}

/** Per command, longest first. */
export function counted(log: string, of: number): Asked[] {
  const found = new Map<string, Asked>();
  for (const [, ms = "", step = "", text = ""] of log.matchAll(
    /LOG:\s+duration: ([\d.]+) ms\s+(execute|statement|parse|bind)[^:]*: ([\s\S]*?)(?=\n\S.*?(?:LOG|DETAIL|STATEMENT):|$)/g,
  )) {
    const statement = text
      .replaceAll(/\s+/g, " ")
      .replaceAll(/\$\d+(, \$\d+)+/g, "…")
      .trim();
    const one = found.get(statement) ?? { statement, executed: 0, parsed: 0, ms: 0 };
    found.set(statement, one);
    one.ms += Number(ms) / of;
    if (step === "parse") one.parsed += 1 / of;
    else if (step !== "bind") one.executed += 1 / of;
  }
  return [...found.values()].toSorted((a, b) => b.ms - a.ms);
}

function table(asked: readonly Asked[]): string {
  const sum = (of: (one: Asked) => number): string => asked.reduce((total, one) => total + of(one), 0).toFixed(1);
  const rows = asked
    .filter(({ executed, ms }) => executed >= shownExecutions || ms >= shownMs)
    .map(({ statement, executed, parsed, ms }) => {
      const shown = statement.slice(0, shownCharacters).replaceAll("|", "\\|");
      return `| ${executed.toFixed(2)} | ${parsed.toFixed(2)} | ${ms.toFixed(3)} | \`${shown}\` |`;
    });
  return [
    `${sum((one) => one.executed)} statements a command, ${sum((one) => one.parsed)} of them read anew; ${callers} commands under way`,
    "",
    "| per command | read anew | ms | statement |",
    "| --- | --- | --- | --- |",
    ...rows,
    "",
  ].join("\n");
}
