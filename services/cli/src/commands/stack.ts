/** `bowline stack`: Compose files, rolled out to a cluster. */
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { CommandLimits } from "@bowline/contract/products";
import {
  DiffStackResponseSchema,
  ListStackRevisionsResponseSchema,
  ListStacksResponseSchema,
  Rollout_State,
  type Stack,
  Stack_State,
  StackRevisionSchema,
  StackSchema,
  StackTarget_State,
} from "@bowline/contract/stacks";
import type { Command } from "commander";
import { connected, countArgument, listArgument, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { usage } from "../failure.ts";
import { json, printJson, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { awayText, instanceText, stackRows, stackTitle } from "../stack-rows.ts";
import { columns, enumName, nothing, plain, span, when } from "../text.ts";
import { changeLines } from "./changes.ts";
import { stackActions } from "./stack-actions.ts";
import { stackInstances } from "./stack-instances.ts";
import { rolloutCommand, rolloutText } from "./stack-rollout.ts";
import { stackUp } from "./stack-up.ts";
import { stackWatching } from "./stack-watch.ts";

export function stackCommand(cli: Cli): Command {
  const stack = noun("stack", "Stacks: Compose files, rolled out to a cluster");
  stackUp(cli, stack);
  listCommand(cli, stack);
  showCommands(cli, stack);
  stackWatching(cli, stack);
  stackInstances(cli, stack);
  stackActions(cli, stack);
  historyCommands(cli, stack);
  stack.addCommand(rolloutCommand(cli));
  return stack;
}

function listCommand(cli: Cli, stack: Command): void {
  connected(
    listed(
      verb(stack, {
        usage: "ls",
        summary: "List stacks",
        examples: ["stack ls", "stack ls --cluster factory-7 --state FAILED,ROLLING_OUT"],
      })
        .option("--cluster <cluster>", "only of this cluster")
        .option("--state <state>", "only in this state; may be repeated (default: all but DELETED)", listArgument),
    ),
  ).action(async (flags: ListFlags & { cluster?: string; state?: string[] }) => {
    const api = await openApi(cli, flags);
    const filter = { clusterId: flags.cluster, states: (flags.state ?? []).map(readState) };
    const response = await allPages(
      flags.limit,
      (page) => api.stacks.listStacks({ ...page, ...filter }),
      (page) => page.stacks,
    );
    printList(cli, flags, {
      schema: ListStacksResponseSchema,
      response,
      rows: response.stacks,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name],
        ["CLUSTER", (row) => row.cluster],
        ["REVISION", (row) => `r${row.revision}`],
        ["STATE", stateText],
        ["HOSTS", (row) => `${row.targets.filter(isDone).length}/${row.targets.length}`],
        ["CHANGED", (row) => when(row.updatedAt)],
        ["ID", (row) => row.id],
      ],
      none: `No stacks. Make one: ${cli.settings.invocation} stack up -f compose.yaml --to <cluster>`,
    });
    sayMore(cli, flags, response, flags.limit);
  });
}

function showCommands(cli: Cli, stack: Command): void {
  connected(
    verb(stack, {
      usage: "get <stack>",
      summary: "Show one stack: where it stands, at which host, and why",
      examples: ["stack get shop", "stack get shop -o json"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.stacks.getStack({ id });
    printOne(cli, flags, {
      schema: StackSchema,
      message: found,
      id: found.id,
      title: stackTitle(found),
      facts: [
        ["id", found.id],
        ["state", stateText(found)],
        ["why", found.message.split("\n")[0] ?? ""],
        ["stable revision", found.stableRevision === 0 ? "none yet" : `r${found.stableRevision}`],
        ["limits", found.limits === undefined ? "" : limitsText(found.limits)],
        ["rollout", found.rollout === undefined ? "" : `${rolloutText(found.rollout)}  ${found.rollout.id}`],
        ...stackRows(found).map(({ cells: [agent = "", ...cells], below = [] }): [string, string] => [
          agent === "" ? "hosts" : `at ${agent}`,
          [cells.filter((cell) => cell !== "").join("  "), ...below].join("\n"),
        ]),
        ["made", when(found.createdAt)],
        ["changed", when(found.updatedAt)],
      ],
    });
  });

  connected(
    verb(stack, {
      usage: "ps <stack>",
      summary: "List what runs of a stack, at which host",
      examples: ["stack ps shop", "stack ps shop -q"],
      more: "With --quiet the ids of its deployments, one for each host.",
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.stacks.getStack({ id });
    if (flags.output === "json") return printJson(cli, json(StackSchema, found));
    if (flags.quiet === true) return found.targets.forEach(({ deploymentId }) => cli.print(deploymentId));
    const rows = instanceRows(found);
    if (rows.length === 0) return cli.note(found.message || "Nothing runs of it.");
    for (const line of columns([["HOST", "SERVICE", "STATE", "RESTARTS", "ADDRESSES", "IMAGE"], ...rows]))
      cli.print(line);
  });
}

/** `5 min to run, 3 retries, priority 5, waits 24 h for a host that is away`. */
function limitsText({ runTimeout, maxRetries = 0, priority = 0, offlineLife }: CommandLimits): string {
  const [run, away] = [runTimeout, offlineLife].map((time) => (time === undefined ? nothing : span(durationMs(time))));
  return `${run} to run, ${maxRetries} retries, priority ${priority}, waits ${away} for a host that is away`;
}

/** A row for each instance; one for a service, or a host, of which nothing was observed. */
function instanceRows(stack: Stack): string[][] {
  return stack.targets
    .flatMap((target) => {
      const away = target.reason === "AGENT_OFFLINE" ? awayText(target) : "";
      const state = away || enumName(StackTarget_State, target.state);
      const bare = (service: string, image: string) => [target.agent, service, state, nothing, nothing, image];
      if (target.services.length === 0) return [bare(nothing, nothing)];
      return target.services.flatMap(({ service, image, instances }) =>
        instances.length === 0
          ? [bare(service, image || nothing)]
          : instances.map((one) => [
              target.agent,
              instances.length === 1 ? service : `${service} ${one.index}`,
              away === "" ? instanceText(one) : `was ${instanceText(one)}; ${away}`,
              String(one.restarts),
              Object.values(one.addresses).join(", ") || nothing,
              image || one.image || nothing,
            ]),
      );
    })
    .map((row) => row.map(plain));
}

function historyCommands(cli: Cli, stack: Command): void {
  connected(
    listed(
      verb(stack, {
        usage: "history <stack>",
        summary: "List a stack's revisions, newest first, or show what one was made of",
        examples: ["stack history shop", "stack history shop --revision 3 > compose.yaml"],
      }).option("--revision <n>", "show this one: the Compose file that it was made of, merged", countArgument),
    ),
  ).action(async (id: string, flags: ListFlags & { revision?: number }) => {
    const api = await openApi(cli, flags);
    if (flags.revision !== undefined) {
      const one = await api.stacks.getStackRevision({ stackId: id, number: flags.revision });
      if (flags.output === "json") return printJson(cli, json(StackRevisionSchema, one));
      return cli.print(flags.quiet === true ? String(one.number) : one.normalised.trimEnd());
    }
    const found = await api.stacks.getStack({ id });
    const response = await allPages(
      flags.limit,
      (page) => api.stacks.listStackRevisions({ ...page, stackId: found.id }),
      (page) => page.revisions,
    );
    printList(cli, flags, {
      schema: ListStackRevisionsResponseSchema,
      response,
      rows: response.revisions,
      id: (row) => String(row.number),
      columns: [
        ["REVISION", (row) => `r${row.number}${row.number === found.revision ? ", wanted now" : ""}`],
        ["RAN", (row) => (row.stableAt === undefined ? "never" : `since ${when(row.stableAt)}`)],
        ["MADE", (row) => when(row.createdAt)],
        ["BY", (row) => row.createdByName || row.createdBy || nothing],
        ["SERVICES", (row) => row.services.join(", ")],
      ],
      none: "No revisions.",
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(stack, {
      usage: "diff <stack>",
      summary: "Tell what differs between two revisions",
      examples: ["stack diff shop", "stack diff shop --from 3 --to 5"],
    })
      .option("--from <n>", "the revision before (default: the one before --to)", countArgument)
      .option("--to <n>", "the revision after (default: the one that is wanted now)", countArgument),
  ).action(async (id: string, flags: ConnectionFlags & { from?: number; to?: number }) => {
    const api = await openApi(cli, flags);
    const response = await api.stacks.diffStack({ id, from: flags.from, to: flags.to });
    if (flags.output === "json") return printJson(cli, json(DiffStackResponseSchema, response));
    for (const line of changeLines(response.changes)) cli.print(line);
    if (response.changes.length === 0) cli.note("Nothing differs.");
  });
}

function isDone({ state }: Stack["targets"][number]): boolean {
  return state === StackTarget_State.DONE;
}

function stateText(stack: Stack): string {
  const wentBack = stack.state === Stack_State.RUNNING && stack.rollout?.cause === "revert";
  const why = stack.reason === "" ? "" : `, ${wentBack ? "went back: " : ""}${stack.reason}`;
  const paused = stack.rollout?.state === Rollout_State.PAUSED ? ", paused" : "";
  const beside = stack.conditions.filter((condition) => condition !== stack.reason);
  return `${enumName(Stack_State, stack.state)}${paused}${why}${beside.length === 0 ? "" : ` (${beside.join(", ")})`}`;
}

function readState(text: string): Stack_State {
  const found = Object.entries(Stack_State).find(
    ([name, value]) => name === text.toUpperCase() && typeof value === "number" && value > 0,
  );
  if (found === undefined)
    throw usage(`"${text}" is not a state: ROLLING_OUT, RUNNING, FAILED, STOPPED, DELETING, DELETED`);
  return found[1] as Stack_State;
}
