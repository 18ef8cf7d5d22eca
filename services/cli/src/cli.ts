/**
 * What every command gets: settings, streams, Ctrl-C; and how commands are
 * declared, so that each --help has the same parts.
 *
 *   main.ts      entry           run.ts  builds the tree, runs it, exits
 *   config.ts    the environment           contexts.ts  `bowline login`
 *   client.ts    the server                errors.ts    its errors in words
 *   output.ts    results                   progress.ts  waiting, with progress
 *   commands/    one file per noun
 */
import { Command, InvalidArgumentError, Option } from "commander";
import type { Settings } from "./config.ts";
import { exitCodesHelp } from "./failure.ts";
import { parseSpan } from "./text.ts";
import { trusting, type TrustFlags } from "./trust.ts";

/** Rows that a list shows where no `--limit` is given: more than a screen, less than a mistake. */
const defaultLimit = 200;

export type Cli = {
  settings: Settings;
  stdin: NodeJS.ReadStream;
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
  /** Aborts on Ctrl-C, SIGTERM and SIGHUP. */
  interrupted: AbortSignal;
  /** The server that was asked, for messages. */
  asked: { url: string };
  /** The program's exit code where it is not ours: of a command that ran elsewhere. */
  exitWith(code: number): void;
  /** A line of the result, to standard output. */
  print(line: string): void;
  /** A line about the result, to standard error: progress, hints. */
  note(line: string): void;
};

/** Flags of every command that speaks to a server. */
export type ConnectionFlags = TrustFlags & {
  url?: string;
  context?: string;
  tokenFile?: string;
  insecure?: boolean;
  output: "table" | "json";
  quiet?: boolean;
};

/** Flags of a command that can wait. */
export type WaitFlags = { wait?: boolean; timeout?: number };

/** Flags of a list. */
export type ListFlags = ConnectionFlags & { limit: number };

/** A noun: `cluster`, with its verbs below it. */
export function noun(name: string, summary: string): Command {
  return new Command(name).summary(summary).description(summary).helpCommand(false);
}

/** What a verb's --help tells before its flags. */
export type Verb = {
  /** Name with its arguments: `create <name>`. */
  usage: string;
  /** One line of what it does. */
  summary: string;
  /** Lines that work when typed, without the program's name. */
  examples: readonly string[];
  /** It is meant where the noun stands alone. */
  isDefault?: boolean;
  /** More that one must know. */
  more?: string;
};

/** A line's end in the middle of a paragraph: help is wrapped to the terminal, not to our sources. */
const lineEnd = /(?<!\n)\n(?![\n ])/g;

/** Adds a verb to a noun, or to the program. */
export function verb(parent: Command, spec: Verb): Command {
  const command = parent
    .command(spec.usage, { isDefault: spec.isDefault === true })
    .summary(spec.summary)
    .helpCommand(false);
  command.description(spec.more === undefined ? spec.summary : `${spec.summary}\n\n${spec.more.replace(lineEnd, " ")}`);
  const examples = spec.examples.map((line) => `  bowline ${line}`).join("\n");
  command.addHelpText("after", `\nExample${spec.examples.length === 1 ? "" : "s"}:\n${examples}\n\n${exitCodesHelp}`);
  return command;
}

/** Adds the flags of a command that speaks to a server. */
export function connected(command: Command): Command {
  command
    .optionsGroup("Server and output:")
    .option("--context <name>", "a context of `bowline login` (env: BOWLINE_CONTEXT; default: the current one)")
    .option("--url <url>", "the server, instead of a context (env: BOWLINE_URL)")
    .option("--token-file <file>", "file with the API token (env: BOWLINE_TOKEN_FILE; BOWLINE_TOKEN has the token)");
  return trusting(command, "the context's, else the system's")
    .option("--insecure", "send the token in clear text beyond this host (env: BOWLINE_INSECURE)")
    .addOption(
      new Option("-o, --output <format>", "what is printed; json is the API's own")
        .choices(["table", "json"])
        .default("table"),
    )
    .addOption(new Option("--json", "the same as --output json").implies({ output: "json" }).hideHelp()) // many type it
    .option("-q, --quiet", "print ids only, and no hints")
    .optionsGroup("Options:");
}

/** Where nothing is said: long enough for a start on a slow host, short enough for a script. */
const defaultWaitMs = 5 * 60_000;

/** Adds `--wait` and `--timeout`. */
export function waiting(command: Command, what: string): Command {
  return command
    .option("--wait", `wait until ${what}, with progress on standard error`)
    .addOption(
      new Option("--timeout <time>", "longest wait; the work goes on after it")
        .argParser(spanArgument)
        .default(defaultWaitMs, "5m"),
    );
}

/** Adds `--timeout` to a watch, which has none by itself. */
export function limited(command: Command): Command {
  return command.addOption(
    new Option("--timeout <time>", "longest watch (default: none; Ctrl-C ends it)").argParser(spanArgument),
  );
}

/** Adds `--limit` to a list. */
export function listed(command: Command): Command {
  return command.addOption(
    new Option("--limit <n>", "show at most so many").argParser(countArgument).default(defaultLimit),
  );
}

/** Parses `90s`, `10m`, `1h30m`, `7d` into ms. */
export function spanArgument(text: string): number {
  const ms = parseSpan(text);
  if (ms === undefined || ms <= 0) throw new InvalidArgumentError("Write a time like 90s, 10m, 1h30m or 7d.");
  return ms;
}

/** Parses a whole number of 0 or more. */
export function countArgument(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("Write a whole number.");
  return Number(text);
}

/** Parses a port. 0 is any free one. */
export function portArgument(text: string): number {
  const port = countArgument(text);
  if (port > 65_535) throw new InvalidArgumentError("Write a port: 0 to 65535.");
  return port;
}

/** Collects `k=v` flags into one map. */
export function labelArgument(text: string, before: Record<string, string> | undefined): Record<string, string> {
  const at = text.indexOf("=");
  const key = at < 0 ? text : text.slice(0, at);
  if (key === "") throw new InvalidArgumentError("Write a label like key=value.");
  return { ...before, [key]: at < 0 ? "" : text.slice(at + 1) };
}

/** Collects a repeated flag, and splits at commas. */
export function listArgument(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), ...text.split(",").filter((item) => item !== "")];
}
