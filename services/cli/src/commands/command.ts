/** `bowline command`: durable instructions to agents, and what became of them. */
import { randomUUID } from "node:crypto";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Command_State as State, CommandSchema, ListCommandsResponseSchema } from "@bowline/contract/commands";
import type { Command as AgentCommand } from "@bowline/contract/commands";
import type { Command } from "commander";
import { connected, limited, listArgument, listed, noun, verb, waiting } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags, WaitFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { commandText, expectEnd, followCommand } from "../command-wait.ts";
import { watchAll, type WatchFlags } from "../command-watch.ts";
import { usage } from "../failure.ts";
import { hint, printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, nothing, when } from "../text.ts";

export function commandCommand(cli: Cli): Command {
  const command = noun("command", "Commands: durable instructions to agents, and what became of them");

  connected(
    listed(
      verb(command, {
        usage: "list",
        summary: "List commands, newest first",
        examples: ["command list --agent press-1", "command list --state FAILED,LOST"],
      })
        .option("--cluster <cluster>", "only of this cluster")
        .option("--agent <agent>", "only of this agent")
        .option("--deployment <id>", "only of this deployment")
        .option("--publish <id>", "only of this publish")
        .option("--state <state>", "only in this state; may be repeated", listArgument),
    ),
  ).action(
    async (
      flags: ListFlags & { cluster?: string; agent?: string; deployment?: string; publish?: string; state?: string[] },
    ) => {
      const api = await openApi(cli, flags);
      const filter = {
        clusterId: flags.cluster,
        agentId: flags.agent,
        deploymentId: flags.deployment,
        productPublishId: flags.publish,
        states: (flags.state ?? []).map(readState),
      };
      const response = await allPages(
        flags.limit,
        (page) => api.commands.listCommands({ ...page, ...filter }),
        (page) => page.commands,
      );
      printList(cli, flags, {
        schema: ListCommandsResponseSchema,
        response,
        rows: response.commands,
        id: (row) => row.id,
        columns: [
          ["AGENT", (row) => row.agent],
          ["STATE", (row) => enumName(State, row.state)],
          ["GENERATION", (row) => String(row.generation)],
          ["ATTEMPT", (row) => String(row.attempt)],
          ["CREATED", (row) => when(row.createdAt)],
          ["ID", (row) => row.id],
          ["WHY", (row) => commandText(row) || nothing],
        ],
        none: "No commands.",
      });
      sayMore(cli, flags, response, flags.limit);
    },
  );

  getCommand(cli, command, "Show one command", "command get command_01k3…");

  connected(
    waiting(
      verb(command, {
        usage: "cancel <id>",
        summary: "Ask for the end of a command; what was there before stays",
        examples: ["command cancel command_01k3… --wait"],
      }),
      "it has ended",
    ),
  ).action(async (id: string, flags: ConnectionFlags & WaitFlags) => {
    const api = await openApi(cli, flags);
    const asked = await api.commands.cancelCommand({ id });
    const end = flags.wait === true ? await followCommand(cli, api, asked, flags, false) : asked;
    if (flags.wait === true) expectEnd(end, State.CANCELLED);
    printDone(cli, flags, {
      schema: CommandSchema,
      message: end,
      id: end.id,
      text: `${end.id} at ${end.agent}: ${enumName(State, end.state)}`,
    });
  });

  connected(
    waiting(
      verb(command, {
        usage: "retry <id>",
        summary: "Try an ended command again, as a new command",
        examples: ["command retry command_01k3… --wait"],
      }).option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
      "it has ended",
    ),
  ).action(async (id: string, flags: ConnectionFlags & WaitFlags & { requestId?: string }) => {
    const api = await openApi(cli, flags);
    const made = await api.commands.retryCommand({ id, requestId: flags.requestId ?? randomUUID() });
    const end = flags.wait === true ? await followCommand(cli, api, made, flags, false) : made;
    if (flags.wait === true) expectEnd(end, State.SUCCEEDED);
    printDone(cli, flags, {
      schema: CommandSchema,
      message: end,
      id: end.id,
      text: `${end.id} at ${end.agent}: ${enumName(State, end.state)}`,
    });
    if (flags.wait !== true) hint(cli, flags, "To watch it:", `command watch ${end.id}`);
  });

  connected(
    limited(
      verb(command, {
        usage: "watch [id]",
        summary: "Watch one command until it ends, or all that change",
        examples: ["command watch command_01k3…", "command watch --cluster factory-7 -o json"],
        more: "Of one command: exit code 0 where it succeeded. Of all: until Ctrl-C.",
      })
        .option("--cluster <cluster>", "only of this cluster")
        .option("--publish <id>", "only of this publish"),
    ),
  ).action(async (id: string | undefined, flags: WatchFlags) => {
    const api = await openApi(cli, flags);
    if (id === undefined) return watchAll(cli, flags);
    const found = await api.commands.getCommand({ id });
    const end = await followCommand(cli, api, found, flags, flags.output === "json");
    expectEnd(end, State.SUCCEEDED);
    if (flags.output === "table")
      cli.print(flags.quiet === true ? end.id : `${end.id} at ${end.agent}: ${enumName(State, end.state)}`);
  });
  return command;
}

/** Adds `get` to a noun under which commands are shown. */
export function getCommand(cli: Cli, parent: Command, summary: string, example: string): void {
  connected(verb(parent, { usage: "get <id>", summary, examples: [example] })).action(
    async (id: string, flags: ConnectionFlags) => {
      const api = await openApi(cli, flags);
      show(cli, flags, await api.commands.getCommand({ id }));
    },
  );
}

function readState(text: string): State {
  const found = Object.entries(State).find(
    ([name, value]) => name === text.toUpperCase() && typeof value === "number" && value > 0,
  );
  if (found === undefined) throw usage(`"${text}" is not a state of a command`, { next: ["command list --help"] });
  return found[1] as State;
}

function show(cli: Cli, flags: ConnectionFlags, command: AgentCommand): void {
  printOne(cli, flags, {
    schema: CommandSchema,
    message: command,
    id: command.id,
    title: `${command.id} at ${command.agent}`,
    facts: [
      ["state", enumName(State, command.state)],
      ["why", [command.reason, command.message].filter((part) => part !== "").join(": ")],
      [
        "doing",
        command.progressPhase === ""
          ? ""
          : `${command.progressPercent} %, ${command.progressMessage || command.progressPhase}`,
      ],
      ["deployment", `${command.deploymentId}, generation ${command.generation}`],
      ["publish", command.productPublishId],
      ["stack", stackText(command)],
      ["rollout", command.rolloutId],
      ["attempt", `${command.attempt}, ${command.failures} of at most ${command.maxRetries + 1} failed`],
      ["next try", command.dueAt === undefined ? "" : when(command.dueAt)],
      ["retry of", command.retryOf],
      ["superseded by", command.supersededBy],
      ["late outcome", command.lateOutcome],
      [
        "created",
        `${when(command.createdAt)}${command.createdBy === "" ? "" : ` by ${command.createdByName || command.createdBy}`}`,
      ],
      ["assigned", command.assignedAt === undefined ? "" : when(command.assignedAt)],
      ["ended", command.endedAt === undefined ? "" : when(command.endedAt)],
      ["took", command.duration === undefined ? "" : `${durationMs(command.duration) / 1000} s`],
      ["limits", limitsText(command)],
    ],
  });
}

function stackText({ stack, stackId, revision }: AgentCommand): string {
  const name = stack || stackId;
  return name === "" || revision === 0 ? name : `${name} r${revision}`;
}

function limitsText({ runTimeout, maxRetries, priority }: AgentCommand): string {
  const run = runTimeout === undefined ? "" : `${durationMs(runTimeout) / 1000} s to run, `;
  return `${run}${maxRetries} retries, priority ${priority}`;
}
