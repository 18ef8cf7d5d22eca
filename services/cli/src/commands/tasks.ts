/** `bowline tasks`: who deployed what, when, to which host, with which outcome. The same rows as `bowline command`. */
import { create } from "@bufbuild/protobuf";
import { durationMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  Command_Kind as Kind,
  Command_State as State,
  ListCommandsRequestSchema,
  ListCommandsResponseSchema,
} from "@bowline/contract/commands";
import type { Command as Task } from "@bowline/contract/commands";
import { type Command, InvalidArgumentError } from "commander";
import { connected, listArgument, listed, noun, verb } from "../cli.ts";
import type { Cli, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { commandText } from "../command-wait.ts";
import { usage } from "../failure.ts";
import { printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, nothing, parseSpan, span, when } from "../text.ts";
import { getCommand } from "./command.ts";

type TaskFlags = ListFlags & {
  stack?: string;
  agent?: string;
  cluster?: string;
  by?: string;
  state?: string[];
  kind?: string[];
  since?: number;
  until?: number;
};

export function tasksCommand(cli: Cli): Command {
  const tasks = noun("tasks", "History: who deployed what, when, to which host, with which outcome");

  connected(
    listed(
      verb(tasks, {
        usage: "list",
        isDefault: true,
        summary: "List what was done, newest first",
        examples: [
          "tasks list --stack shop",
          "tasks --agent press-1 --state failed --since 2h",
          "tasks --by anna -o json",
        ],
        more:
          "Each task is a command to one host. What ended is kept for as long as the server's --commands-retention-days\n" +
          "says, and the newest of each deployment for as long as that exists.",
      })
        .option("--stack <stack>", "only of this stack, also where it is gone")
        .option("--agent <agent>", "only at this host")
        .option("--cluster <cluster>", "only in this cluster")
        .option("--by <name>", "only what this person, or account, caused")
        .option(
          "--state <state>",
          "only with this outcome; may be repeated: failed, succeeded, running, …",
          listArgument,
        )
        .option("--kind <kind>", "only these: apply, stop, remove; may be repeated", listArgument)
        .option("--since <time>", "only what began since: 2h ago, or 2026-01-31T12:00:00Z", momentArgument)
        .option("--until <time>", "only what began before", momentArgument),
    ),
  ).action(async (flags: TaskFlags) => {
    const api = await openApi(cli, flags);
    const filter = create(ListCommandsRequestSchema, {
      stack: flags.stack ?? "",
      agentId: flags.agent ?? "",
      clusterId: flags.cluster ?? "",
      createdBy: flags.by ?? "",
      states: (flags.state ?? []).map((text) => valueOf<State>("state", State, text)),
      kinds: (flags.kind ?? []).map((text) => valueOf<Kind>("kind", Kind, text)),
      ...(flags.since === undefined ? {} : { from: timestampFromMs(flags.since) }),
      ...(flags.until === undefined ? {} : { to: timestampFromMs(flags.until) }),
    });
    const response = await allPages(
      flags.limit,
      (page) => api.commands.listCommands({ ...filter, ...page }),
      (page) => page.commands,
    );
    printList(cli, flags, {
      schema: ListCommandsResponseSchema,
      response,
      rows: response.commands,
      id: (row) => row.id,
      columns: [
        ["WHEN", (row) => when(row.createdAt)],
        ["WHAT", taskText],
        ["HOST", (row) => row.agent || row.agentId],
        ["BY", (row) => row.createdByName || row.createdBy || nothing],
        ["OUTCOME", (row) => enumName(State, row.state)],
        ["TOOK", (row) => (row.duration === undefined ? nothing : tookText(durationMs(row.duration)))],
        ["ID", (row) => row.id],
        ["WHY", (row) => commandText(row) || nothing],
      ],
      none: "Nothing was done that matches.",
    });
    sayMore(cli, flags, response, flags.limit);
  });

  getCommand(cli, tasks, "Show one task", "tasks get command_01k3…");
  return tasks;
}

/** `remove shop r3`, `apply data-plane`. */
export function taskText(task: Task): string {
  const what = task.stack || task.productPublishId || task.ownerKind || nothing;
  return [enumName(Kind, task.kind).toLowerCase(), what, task.revision === 0 ? "" : `r${task.revision}`]
    .filter((part) => part !== "")
    .join(" ");
}

/** Most take less than a second, or a few. */
export function tookText(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms);
}

function valueOf<Value extends number>(what: string, names: Readonly<Record<string, unknown>>, text: string): Value {
  const found = Object.entries(names).find(
    ([name, value]) => name === text.toUpperCase() && typeof value === "number" && value > 0,
  );
  if (found === undefined) throw usage(`"${text}" is not a ${what} of a task`, { next: ["tasks list --help"] });
  return found[1] as Value;
}

/** `2h` before now, or a time as the API writes it; in ms since 1970. */
function momentArgument(text: string): number {
  const ago = parseSpan(text);
  const ms = ago === undefined ? Date.parse(text) : Date.now() - ago;
  if (Number.isNaN(ms)) throw new InvalidArgumentError("Write a time ago like 90s, 2h or 7d, or 2026-01-31T12:00:00Z.");
  return ms;
}
