/** `bowline stack logs|exec`: instances from near. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { type Instance, type LogEntry, LogEntrySchema } from "@bowline/contract/instances";
import { systemClock } from "@bowline/kernel";
import { type Command, InvalidArgumentError } from "commander";
import { connected, countArgument, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { execIn } from "../exec.ts";
import { followLogs } from "../log-follow.ts";
import { exitCodes, Failure } from "../failure.ts";
import { json, printJsonLine } from "../output.ts";
import { harmless, plain } from "../text.ts";

/** Lines of each instance that `logs` begins with. */
const defaultLines = 100;
const mostLines = 10_000;

type LogFlags = ConnectionFlags & {
  follow?: boolean;
  tail: number;
  timestamps?: boolean;
  agent?: string;
  index?: number;
};

export function stackInstances(cli: Cli, stack: Command): void {
  connected(
    verb(stack, {
      usage: "logs <stack> [services...]",
      summary: "Show what instances of a stack wrote; with -f go on with what they write",
      examples: ["stack logs shop", "stack logs shop web -f", "stack logs shop --tail 20 --agent press-1 -o json"],
      more:
        "Hosts that are away are named on standard error; then the exit code is 1. With -f a connection that is lost, to\n" +
        "the server or to a host, is tried again for 5 min. Where the host keeps times of lines (Docker does) it goes on\n" +
        "after the last line; elsewhere what was written meanwhile is not shown. Either is said on standard error.",
    })
      .option("-f, --follow", "go on with what they write, until Ctrl-C")
      .option("--tail <n>", `lines of each instance to begin with, at most ${mostLines}`, tailArgument, defaultLines)
      .option("--timestamps", "with the time of each line, where the host keeps it")
      .option("--agent <agent>", "only at this host")
      .option("--index <n>", "only the instance with this number, from 0", countArgument),
  ).action(async (id: string, services: string[], flags: LogFlags) => {
    const api = await openApi(cli, flags);
    const print = printer(cli, flags);
    const wanted = { stack: id, services, agent: flags.agent, index: flags.index, lines: flags.tail };
    const missing = flags.follow === true ? await followed() : await told();
    const agents = missing.map(({ instance }) => instance?.agent ?? "");
    const [first] = missing;
    if (first !== undefined)
      throw new Failure(exitCodes.failed, `What ${agents.join(", ")} wrote is not here, or not all of it.`, {
        reason: first.reason,
        lines: missing.map(({ reason, message }, at) => `${agents[at]}: ${reason}: ${plain(message)}`),
      });

    async function told(): Promise<LogEntry[]> {
      const failed: LogEntry[] = [];
      const request = { ...wanted, timestamps: flags.timestamps === true };
      for await (const { entries } of api.instances.streamLogs(request, { timeoutMs: 0 }))
        for (const entry of entries) {
          if (entry.reason === "") print(entry);
          else failed.push(entry);
        }
      return failed;
    }

    async function followed(): Promise<LogEntry[]> {
      const failed = await followLogs(
        {
          open: ({ lines, agent }, signal) => {
            const more = { lines: lines ?? wanted.lines, agent: agent ?? wanted.agent };
            // By their times lines are known again after a loss.
            const request = { ...wanted, ...more, follow: true, timestamps: true };
            return api.instances.streamLogs(request, { timeoutMs: 0, signal });
          },
          print: ({ time, ...entry }) =>
            print(flags.timestamps === true && time !== undefined ? { ...entry, time } : entry),
          note: (line) => cli.note(line),
          clock: systemClock,
        },
        cli.interrupted,
      );
      if (cli.interrupted.aborted) throw new Failure(exitCodes.interrupted, "Interrupted.", { reason: "INTERRUPTED" });
      return failed;
    }
  });

  connected(
    verb(stack, {
      usage: "exec <stack> <service> <command...>",
      summary: "Run a command in an instance of a service",
      examples: [
        "stack exec shop web -- ls -l /srv",
        "stack exec shop web -it -- sh",
        "stack exec shop db -i -- psql <dump.sql",
      ],
      more:
        "Its exit code is this command's. What it starts ends when this ends. With -t it has a terminal, with -i what comes\n" +
        "from standard input; both are on by themselves where this runs in a terminal. It is audited, what is typed is not.",
    })
      .option("--agent <agent>", "at this host, where several have the service")
      .option("--index <n>", "the instance with this number, from 0 (default: the first that runs)", countArgument)
      .option("-i, --stdin", "standard input is the command's")
      .option("-t, --tty", "with a terminal")
      .option("-T, --no-tty", "without a terminal"),
  ).action(
    async (
      id: string,
      service: string,
      command: string[],
      flags: ConnectionFlags & { agent?: string; index?: number; stdin?: boolean; tty?: boolean },
    ) => {
      const api = await openApi(cli, flags);
      const isTerminal = cli.stdin.isTTY && cli.stdout.isTTY;
      const asked = flags.tty ?? isTerminal;
      const withStdin = flags.stdin === true || (asked && isTerminal);
      // Through a terminal there what comes in here, from no terminal, would have no end.
      const tty = asked && (!withStdin || cli.stdin.isTTY);
      if (tty !== asked) cli.note("Standard input is no terminal: it runs without one.");
      const wanted = { stack: id, service, command, tty, agent: flags.agent, index: flags.index };
      cli.exitWith(await execIn(cli, api, wanted, withStdin));
    },
  );
}

function tailArgument(text: string): number {
  const lines = countArgument(text);
  if (lines > mostLines) throw new InvalidArgumentError(`Write a number of at most ${mostLines}.`);
  return lines;
}

/** Prefixes as Compose has them, of one width as far as it is known; none where the lines are one JSON each. */
function printer(cli: Cli, flags: LogFlags): (entry: LogEntry) => void {
  if (flags.output === "json") return (entry) => printJsonLine(cli, json(LogEntrySchema, entry));
  const isColoured = cli.stdout.isTTY === true && cli.settings.decorated;
  const colours = new Map<string, number>();
  let width = 0;
  return (entry) => {
    const name = nameOf(entry.instance);
    width = Math.max(width, name.length);
    if (!colours.has(name)) colours.set(name, firstColour + (colours.size % colourCount));
    const prefix = `${name.padEnd(width)} |`;
    const shown = isColoured ? `\u001b[${colours.get(name)}m${prefix}\u001b[0m` : prefix;
    const time = entry.time === undefined ? "" : `${timestampDate(entry.time).toISOString()} `;
    cli.print(`${shown} ${time}${cli.stdout.isTTY === true ? harmless(entry.line) : entry.line}`);
  };
}

/** The six colours of a terminal beside black and white. */
const firstColour = 31;
const colourCount = 6;

/** `web-0@press-1`. */
function nameOf(instance: Instance | undefined): string {
  return instance === undefined ? "?" : plain(`${instance.service}-${instance.index}@${instance.agent}`);
}
