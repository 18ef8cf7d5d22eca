/** `bowline stack watch|events`: a stack as it changes. */
import {
  ListRolloutsResponseSchema,
  type Rollout,
  type Stack,
  Stack_State,
  StackSchema,
} from "@bowline/contract/stacks";
import { type Command as Task, Command_State } from "@bowline/contract/commands";
import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { connected, countArgument, limited, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import type { Api } from "../client.ts";
import { commandText } from "../command-wait.ts";
import { exitCodes, Failure } from "../failure.ts";
import { follow, timeLimit } from "../follow.ts";
import { hint, json, printJson, printJsonLine } from "../output.ts";
import { allPages } from "../pages.ts";
import { driftedRows, stackRows } from "../stack-rows.ts";
import { expectRollout, followRemoval, followRollout } from "../stack-wait.ts";
import { enumName, plain, when } from "../text.ts";
import { endText } from "./stack-actions.ts";
import { rolloutText } from "./stack-rollout.ts";

/** What `events` begins with. */
const defaultEvents = 20;

/** Who causes the commands that put drift right, as the API names it. */
const driftRepair = "drift-repair";

export function stackWatching(cli: Cli, stack: Command): void {
  connected(
    limited(
      verb(stack, {
        usage: "watch <stack>",
        summary: "Watch a stack until its rollout, or its removal, ends, with progress",
        examples: ["stack watch shop", "stack watch shop -o json"],
        more: "Exit code 0: it runs, is stopped or removed as is wanted. Ctrl-C leaves the work alone.",
      }),
    ),
  ).action(async (id: string, flags: ConnectionFlags & { timeout?: number }) => {
    const api = await openApi(cli, flags);
    const found = await api.stacks.getStack({ id });
    const lines = flags.output === "json";
    const isGoing = found.state === Stack_State.DELETING || found.state === Stack_State.DELETED;
    const end = isGoing
      ? { stack: await followRemoval(cli, api, found, flags, lines), rollout: undefined }
      : await followRollout(cli, api, found, flags, { lines });
    if (!isGoing) expectRollout(end.stack, end.rollout);
    if (flags.quiet === true) cli.print(end.stack.id);
    else if (!lines) cli.print(endText(end.stack));
  });

  connected(
    limited(
      verb(stack, {
        usage: "events <stack>",
        summary: "Tell what happened to a stack, oldest first; with -f go on with each change",
        examples: ["stack events shop", "stack events shop -f"],
        more:
          "The list has the stack's rollouts and the repairs of drift. Drift itself has no history: what somebody changed\n" +
          "by hand stands at the end for as long as it lasts, and -f shows it as it comes and goes. With -q and -o json the\n" +
          `list has rollouts only; the repairs are in \`tasks list --stack <stack> --by ${driftRepair}\`.`,
      })
        .option("-f, --follow", "go on with each change, until Ctrl-C")
        .option("--limit <n>", "how many to begin with", countArgument, defaultEvents),
    ),
  ).action(async (id: string, flags: ConnectionFlags & { follow?: boolean; limit: number; timeout?: number }) => {
    const api = await openApi(cli, flags);
    const found = await api.stacks.getStack({ id });
    const response = await allPages(
      flags.limit,
      (page) => api.rollouts.listRollouts({ ...page, stackId: found.id }),
      (page) => page.rollouts,
    );
    if (flags.output === "json" && flags.follow !== true)
      return printJson(cli, json(ListRolloutsResponseSchema, response));
    const past = response.rollouts.filter((one) => one.id !== found.rollout?.id || flags.follow !== true);
    if (flags.output === "table" && flags.quiet === true) for (const one of past.toReversed()) cli.print(one.id);
    else if (flags.output === "table") {
      const repairs = await repairsOf(api, found, flags.limit);
      const events = [...past.map((one) => ({ at: one.createdAt, line: eventLine(one) })), ...repairs];
      const sorted = events.toSorted((a, b) => msOf(a.at) - msOf(b.at));
      for (const { line } of sorted.slice(-flags.limit)) cli.print(line);
      if (flags.follow !== true) for (const line of driftLines(found)) cli.print(line);
    }
    if (flags.follow === true) await tellChanges(cli, api, found, flags);
  });
}

function eventLine(rollout: Rollout): string {
  return plain(`${when(rollout.createdAt)}  ${rolloutText(rollout)}  ${rollout.id}`);
}

const msOf = (at: Timestamp | undefined): number => (at === undefined ? 0 : timestampMs(at));

/** The newest repairs of what drifted. */
async function repairsOf(
  api: Api,
  { id }: Stack,
  limit: number,
): Promise<{ at: Timestamp | undefined; line: string }[]> {
  const { commands } = await allPages(
    limit,
    (page) => api.commands.listCommands({ ...page, stack: id, createdBy: driftRepair }),
    (page) => page.commands,
  );
  return commands.map((task) => ({ at: task.createdAt, line: repairLine(task) }));
}

function repairLine(task: Task): string {
  const [why = ""] = commandText(task).split("\n"); // a log may follow, which is not for one line
  const state = [enumName(Command_State, task.state), why].filter((part) => part !== "").join(", ");
  return plain(`${when(task.createdAt)}  repair of drift at ${task.agent}: ${state}  ${task.id}`);
}

/** What has drifted and is not put right. */
function driftLines(stack: Stack): string[] {
  const lines = driftedRows(stack).map(({ cells }) => plain(`  ${cells.filter((cell) => cell !== "").join("  ")}`));
  return lines.length === 0 ? [] : ["now  DRIFTED", ...lines];
}

/** Changes are the result here, so they go to standard output. */
async function tellChanges(
  cli: Cli,
  api: Api,
  start: Stack,
  flags: ConnectionFlags & { timeout?: number },
): Promise<void> {
  const { limit, signal } = timeLimit(cli, flags.timeout);
  hint(cli, flags, "Changes are shown until Ctrl-C.");
  /** By key, what was last shown of each row. */
  const shown = new Map<string, string>();
  const tell = (key: string, mark: string, line: string): void => {
    if (shown.get(key) === mark) return;
    shown.set(key, mark);
    cli.print(flags.quiet === true ? start.id : line);
  };
  const events = follow(cli, (cursor, options) => api.stacks.watchStack({ id: start.id, cursor }, options), signal);
  for await (const { stack } of events) {
    if (stack === undefined) continue;
    if (flags.output === "json") {
      printJsonLine(cli, json(StackSchema, stack));
      continue;
    }
    const { rollout } = stack;
    if (rollout !== undefined) tell("rollout", `${rollout.id} ${rollout.state}`, eventLine(rollout));
    for (const row of stackRows(stack)) {
      const line = row.cells.filter((cell) => cell !== "").join("  ");
      tell(`row ${row.key}`, row.mark ?? line, plain([`  ${line}`, ...(row.below ?? [])].join("  ")));
    }
    if (stack.state === Stack_State.DELETED) return cli.print(plain(`${stack.name} is removed.`));
  }
  if (!limit.aborted)
    throw new Failure(exitCodes.interrupted, "Interrupted; what is under way goes on.", { reason: "INTERRUPTED" });
}
