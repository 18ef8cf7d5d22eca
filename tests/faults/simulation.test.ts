/** Seeded histories of the simulated engine (tests/simulation), and the defects that only many of them find. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "@jest/globals";
import { simulate } from "../simulation/history.ts";
import { mutants } from "../simulation/mutants.ts";

/** CI runs the same ones each time; `npm run simulate` looks for others. */
const seed = "ci";
const histories = 1000;
/** Enough for a defect that shows in one of fifty. */
const atMost = 600;
/** Half a minute of two cores; many times that on a busy machine. */
const withinMs = 900_000;
/** What the command prints: some tens of kilobytes. */
const maxBuffer = 1 << 24;

/** Runs `npm run simulate` with these flags. */
async function command(...flags: string[]) {
  const program = new URL("../simulation/main.ts", import.meta.url).pathname;
  const { stdout } = await promisify(execFile)(process.execPath, [program, ...flags, "--json"], { maxBuffer });
  return JSON.parse(stdout) as { histories: number; violated: unknown[]; missing: string[]; commands: number };
}

test(
  "a thousand histories violate no invariant, and take every transition of the table",
  async () => {
    // Each violation is told with its seed: `npm run simulate -- --seed ci --only 17 --trace` shows it.
    const done = await command("--seed", seed, "--histories", String(histories), "--keep-going");
    expect(done).toMatchObject({ histories, violated: [], missing: [] });
    expect(done.commands).toBeGreaterThan(histories * 10);
  },
  withinMs,
);

describe("a defect that shows seldom is found:", () => {
  const rare = Object.entries(mutants).filter(([, mutant]) => mutant.rare === true);
  test.each(rare)(
    "%s",
    async (_name, { options, breaks }) => {
      for (let number = 1; number <= atMost; number += 1) {
        const { violations } = await simulate(`mutant/${number}`, options);
        if (violations.length === 0) continue;
        expect(violations.some(({ invariant }) => breaks.includes(invariant))).toBe(true);
        return;
      }
      throw new Error(`none of ${atMost} histories violates anything`);
    },
    withinMs,
  );
});
