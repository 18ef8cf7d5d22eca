/** `bowline stack down|stop|start|restart|rollback`: what starts work, and waits for it where asked to. */
import { randomUUID } from "node:crypto";
import { type Stack, Stack_State, StackSchema, StackTarget_State } from "@bowline/contract/stacks";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Command } from "commander";
import { connected, countArgument, verb, waiting } from "../cli.ts";
import type { Cli, ConnectionFlags, WaitFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import type { Api } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone } from "../output.ts";
import { restOf, stackTitle } from "../stack-rows.ts";
import { expectRollout, followRemoval, followRollout } from "../stack-wait.ts";
import { enumName, when } from "../text.ts";

type ActionFlags = ConnectionFlags & WaitFlags & { requestId?: string };

export function stackActions(cli: Cli, stack: Command): void {
  downCommand(cli, stack);
  const acted = (spec: Parameters<typeof verb>[1], until: string): Command =>
    connected(
      waiting(
        verb(stack, spec).option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
        until,
      ),
    );

  acted(
    {
      usage: "stop <stack>",
      summary: "Stop everything of a stack; definition and volumes stay",
      examples: ["stack stop shop --wait"],
    },
    "it is stopped",
  ).action(async (id: string, flags: ActionFlags) => {
    const api = await openApi(cli, flags);
    const made = await api.stacks.stopStack({ id, requestId: flags.requestId ?? randomUUID() });
    await finishRollout(cli, api, made, flags);
  });

  acted(
    { usage: "start <stack>", summary: "Start what was stopped", examples: ["stack start shop --wait"] },
    "it runs",
  ).action(async (id: string, flags: ActionFlags) => {
    const api = await openApi(cli, flags);
    const made = await api.stacks.startStack({ id, requestId: flags.requestId ?? randomUUID() });
    await finishRollout(cli, api, made, flags);
  });

  acted(
    {
      usage: "restart <stack> [services...]",
      summary: "Restart services, one host after the other (default: all services)",
      examples: ["stack restart shop --wait", "stack restart shop web worker"],
    },
    "it runs",
  ).action(async (id: string, services: string[], flags: ActionFlags) => {
    const api = await openApi(cli, flags);
    const made = await api.stacks.restartStack({ id, services, requestId: flags.requestId ?? randomUUID() });
    await finishRollout(cli, api, made, flags);
  });

  acted(
    {
      usage: "rollback <stack>",
      summary: "Roll an earlier revision out again (default: the last one that ran before this)",
      examples: ["stack rollback shop --wait", "stack rollback shop --to 3 --wait"],
    },
    "it runs",
  )
    .option("--to <n>", "number of the revision, see `stack history`", countArgument)
    .action(async (id: string, flags: ActionFlags & { to?: number }) => {
      const api = await openApi(cli, flags);
      const requestId = flags.requestId ?? randomUUID();
      await finishRollout(cli, api, await api.stacks.rollbackStack({ id, revision: flags.to, requestId }), flags);
    });
}

function downCommand(cli: Cli, stack: Command): void {
  connected(
    waiting(
      verb(stack, {
        usage: "down <stack>",
        summary: "Remove a stack's containers and networks on every host",
        examples: ["stack down shop --wait", "stack down shop --volumes --yes"],
        more:
          "Hosts that are away do it when they return; until then the stack is DELETING and says which hosts owe it. " +
          "Volumes that stay are removed by a later `down --volumes` of the same name; a stack of that name that is made " +
          "later starts with empty ones.",
      })
        .option("--volumes", "its volumes too, with all that is in them")
        .option("-y, --yes", "do not ask")
        .option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
      "no host has anything of it",
    ),
  ).action(async (id: string, flags: ActionFlags & { volumes?: boolean; yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found =
      flags.volumes === true ? await unlessGone(api.stacks.getStack({ id })) : await api.stacks.getStack({ id });
    if (found === undefined)
      await confirm(cli, flags, `remove the volumes that the stack ${id} has left, with all data in them`);
    else {
      const hosts = found.targets.map(({ agent }) => agent).join(", ") || "no host yet";
      const volumes = flags.volumes === true ? ", and its volumes with all data in them" : "; its volumes stay";
      await confirm(cli, flags, `remove the stack ${found.name} from ${found.cluster} (${hosts})${volumes}`);
    }
    const made = await api.stacks.downStack({
      id: found?.id ?? id,
      removeVolumes: flags.volumes === true,
      requestId: flags.requestId ?? randomUUID(),
    });
    const end = flags.wait === true ? await followRemoval(cli, api, made, flags) : made;
    printDone(cli, flags, {
      ...{ schema: StackSchema, message: end, id: end.id },
      text: `${end.name} in ${end.cluster}: ${enumName(Stack_State, end.state)}   ${end.id}`,
    });
    if (end.state !== Stack_State.DELETING) return;
    hint(cli, flags, `Still to go: ${end.owingAgents.join(", ")}. To watch it:`, `stack watch ${end.id}`);
  });
}

/** A stack that was removed has no name any more, and perhaps volumes. */
async function unlessGone(found: Promise<Stack>): Promise<Stack | undefined> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.NotFound) return undefined;
    throw error;
  }
}

/** Waits for the rollout that `made` has, where that is asked for, and tells how it stands. */
export async function finishRollout(
  cli: Cli,
  api: Api,
  made: Stack,
  flags: ConnectionFlags & WaitFlags,
  how: { kept?: ReadonlySet<string> } = {},
): Promise<void> {
  let end = made;
  if (flags.wait === true) {
    const { stack, rollout } = await followRollout(cli, api, made, flags, how);
    expectRollout(stack, rollout);
    end = stack;
  }
  printDone(cli, flags, { schema: StackSchema, message: end, id: end.id, text: `${endText(end)}   ${end.id}` });
  if (flags.wait !== true) return hint(cli, flags, "To watch it:", `stack watch ${end.name}`);
  tellRest(cli, flags, end);
  const away = end.targets.filter(({ reason }) => reason === "AGENT_OFFLINE").map(({ agent }) => agent);
  if (away.length > 0) hint(cli, flags, `Follows when it returns: ${away.join(", ")}.`);
  if (end.conditions.includes("NO_AGENT"))
    hint(cli, flags, "No host can take it yet. Make a token for one:", `token create --cluster ${end.cluster}`);
}

/** What is left to somebody, or to time. */
function tellRest(cli: Cli, flags: ConnectionFlags, { name, rollout }: Stack): void {
  const rest = restOf(rollout);
  const abort = `stack rollout abort ${name}`;
  if (rest === "promotion")
    hint(cli, flags, "Old and new run side by side. To go on, or back:", `stack rollout promote ${name}`, abort);
  if (rest === "keeps")
    hint(
      cli,
      flags,
      `The new one serves; the old is kept until ${when(rollout?.removesOldAt)}. To go back, or let it go now:`,
      ...[abort, `stack rollout promote ${name} --full`],
    );
}

/** `shop r12 to factory-7: RUNNING on 2 of 3 hosts`. */
export function endText(stack: Stack): string {
  const done = stack.targets.filter(({ state }) => state === StackTarget_State.DONE).length;
  const total = stack.targets.length;
  const where = total === 0 && stack.conditions.includes("NO_AGENT") ? ", on no host yet" : "";
  return `${stackTitle(stack)}: ${enumName(Stack_State, stack.state)}${where}${done < total ? ` on ${done} of ${total} hosts` : ""}`;
}
