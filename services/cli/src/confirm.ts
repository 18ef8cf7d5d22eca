/** Asking before something is removed. */
import { createInterface } from "node:readline/promises";
import type { Cli } from "./cli.ts";
import { exitCodes, Failure, usage } from "./failure.ts";

/**
 * Goes on only if a person agrees, or `--yes` was given. `what` names what
 * will be removed: `cluster factory-7 and its 3 agents`.
 */
export async function confirm(cli: Cli, flags: { yes?: boolean }, what: string): Promise<void> {
  if (flags.yes === true) return;
  if (cli.stdin.isTTY !== true || cli.stderr.isTTY !== true) {
    throw usage(`This would ${what}. Nobody can be asked here: add --yes.`, { reason: "NEEDS_YES" });
  }
  const question = createInterface({ input: cli.stdin, output: cli.stderr });
  try {
    const answer = await question.question(`This will ${what}. Go on? [y/N] `, { signal: cli.interrupted });
    if (/^y(es)?$/i.test(answer.trim())) return;
  } finally {
    question.close();
  }
  throw new Failure(exitCodes.failed, "Left as it is.", { reason: "NOT_CONFIRMED" });
}
