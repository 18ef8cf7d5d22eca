/**
 * Seeds that once violated an invariant, and what was wrong. The history behind a seed changes with the simulation; what
 * was wrong in the statements has a test beside them (commands/engine.test.ts, commands/looks.test.ts, commands/forks.test.ts).
 */
export const regressions: [seed: string, what: string][] = [
  ["b/317", "a result of an earlier try hid that the next one was not in the agent's journal"],
  [
    "b/362",
    "a session that served went on while its row said that it was syncing, after a failover that lost its tail",
  ],
  ["b/523", "a revocation put a removal back behind the command that it had ended"],
  ["night1/2084", "a removal of what was gone already stayed below the generation of an agent with another history"],
  ["night2/1313", "the same, where the agent's side was taken"],
  ["night1/2433", "the simulator: a process that had just died began a converge"],
  ["night3/828", "the checker: it asked for a sweep's reason by another time than the sweep"],
  ["a/15", "a sweep changed what had moved on between its look and its lock"],
];
