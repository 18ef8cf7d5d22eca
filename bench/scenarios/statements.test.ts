import { expect, test } from "@jest/globals";
import { counted } from "./statements.ts";

test("statements of PostgreSQL's log are counted per command, and told apart from being read", () => {
  const log = [
    "2026-01-01 00:00:00.000 UTC [7] bench LOG:  duration: 1.500 ms  parse <unnamed>: select $1,",
    "\t$2",
    "2026-01-01 00:00:00.000 UTC [7] bench LOG:  duration: 0.500 ms  bind <unnamed>: select $1,",
    "\t$2",
    "2026-01-01 00:00:00.000 UTC [7] bench DETAIL:  Parameters: $1 = 'x'",
    "2026-01-01 00:00:00.000 UTC [7] bench LOG:  duration: 2.000 ms  execute <unnamed>: select $1,",
    "\t$2",
    "2026-01-01 00:00:00.000 UTC [7] bench DETAIL:  Parameters: $1 = 'x'",
    "2026-01-01 00:00:00.000 UTC [8] bench LOG:  duration: 6.000 ms  statement: commit",
    "2026-01-01 00:00:00.000 UTC [8] bench LOG:  duration: 2.000 ms  statement: commit",
    "",
  ].join("\n");
  expect(counted(log, 2)).toEqual([
    { statement: "commit", executed: 1, parsed: 0, ms: 4 },
    { statement: "select …", executed: 0.5, parsed: 0.5, ms: 2 },
  ]);
});
