/** Shows commands as they change, until Ctrl-C. */
import { type Command, CommandSchema } from "@bowline/contract/commands";
import type { Cli, ConnectionFlags } from "./cli.ts";
import { type Api, openApi } from "./client.ts";
import { commandRow, hasEnded } from "./command-wait.ts";
import { apiError } from "./errors.ts";
import { exitCodes, Failure } from "./failure.ts";
import { follow, timeLimit } from "./follow.ts";
import { hint, json, printJsonLine } from "./output.ts";
import { columns, plain } from "./text.ts";

export type WatchFlags = ConnectionFlags & { cluster?: string; publish?: string; timeout?: number };

/** Changes are the result here, so they go to standard output. */
export async function watchAll(cli: Cli, flags: WatchFlags): Promise<void> {
  const api = await openApi(cli, flags);
  await api.auth.getMe({}); // what is refused or not reached at all is told at once
  const { limit, signal } = timeLimit(cli, flags.timeout);
  const filter = { clusterId: flags.cluster, productPublishId: flags.publish };
  hint(cli, flags, "Commands that change are shown until Ctrl-C.");
  /** Those shown that had not ended. */
  const open = new Set<string>();
  /** While a new snapshot comes: what of them it does not show. It has open ones only, so these have ended. */
  let unseen: Set<string> | undefined;
  const show = (command: Command): void => {
    if (hasEnded(command)) open.delete(command.id);
    else open.add(command.id);
    print(cli, flags, command);
  };
  const events = follow(
    cli,
    (cursor, options) => api.commands.watchCommands({ ...filter, cursor }, options),
    signal,
    () => (unseen = new Set(open)),
  );
  for await (const { command, snapshotEnd } of events) {
    if (command !== undefined) {
      unseen?.delete(command.id);
      show(command);
    }
    if (!snapshotEnd) continue;
    for (const id of unseen ?? []) {
      open.delete(id);
      const ended = await find(api, id);
      if (ended !== undefined) show(ended);
    }
    unseen = undefined;
  }
  if (!limit.aborted)
    throw new Failure(exitCodes.interrupted, "Interrupted; what is under way goes on.", { reason: "INTERRUPTED" });
}

/** Undefined where nothing is known of it any more. */
async function find(api: Api, id: string): Promise<Command | undefined> {
  try {
    return await api.commands.getCommand({ id });
  } catch (error) {
    if (apiError(error)?.code === "not_found") return undefined;
    throw error;
  }
}

function print(cli: Cli, flags: WatchFlags, command: Command): void {
  if (flags.output === "json") printJsonLine(cli, json(CommandSchema, command));
  else if (flags.quiet === true) cli.print(command.id);
  else cli.print(columns([[...commandRow(command).cells, command.id].map(plain)])[0] ?? "");
}
