/** The command line of `npm run bench`. */
import { parseArgs } from "node:util";

export interface Arguments {
  scenario: string;
  json: boolean;
  quick: boolean;
  rounds: number;
  seed: number;
  only: string[];
  /** A folder for CPU profiles of Bowline's servers. */
  profile: string | undefined;
  /** Of `publishes`: another checkout. */
  against: string | undefined;
}

/** Enough for a median with a spread. */
const defaultRounds = 7;
const quickRounds = 2;
/** Beyond it a scenario would take hours. */
const maxRounds = 100;

/** What is wrong with a command line. */
export class UsageError extends Error {}

export function readArguments(args: readonly string[]): Arguments | "help" {
  let parsed;
  try {
    parsed = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        json: { type: "boolean", default: false },
        quick: { type: "boolean", default: false },
        rounds: { type: "string" },
        turns: { type: "string" },
        seed: { type: "string" },
        only: { type: "string", multiple: true },
        profile: { type: "string" },
        against: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
  const { values, positionals } = parsed;
  if (values.help) return "help";
  const [scenario, ...more] = positionals;
  if (scenario === undefined || more.length > 0) throw new UsageError("Name one scenario, or all.");
  const { json, quick, profile, against } = values;
  return {
    ...{ scenario, json, quick, profile, against },
    rounds: wholeNumber("--rounds", values.rounds ?? values.turns, quick ? quickRounds : defaultRounds, 1, maxRounds),
    seed: wholeNumber("--seed", values.seed, Date.now() % 2 ** 31, 0, 2 ** 32 - 1),
    only: values.only ?? [],
  };
}

function wholeNumber(flag: string, given: string | undefined, fallback: number, least: number, most: number): number {
  if (given === undefined) return fallback;
  const number = Number(given);
  if (!Number.isInteger(number) || number < least || number > most)
    throw new UsageError(`${flag} takes a whole number from ${least} to ${most}, not ${given}.`);
  return number;
}
