/** Waits for a command with progress, and says how it ended. */
import { Command_State as State, CommandSchema } from "@bowline/contract/commands";
import type { Command } from "@bowline/contract/commands";
import type { Cli } from "./cli.ts";
import type { Api } from "./client.ts";
import { exitCodes, Failure } from "./failure.ts";
import { follow, timeLimit } from "./follow.ts";
import { json, printJsonLine } from "./output.ts";
import type { OutputFlags } from "./output.ts";
import { board } from "./progress.ts";
import type { Row } from "./progress.ts";
import { enumName, when } from "./text.ts";

const endedStates: readonly State[] = [
  State.SUCCEEDED,
  State.FAILED,
  State.CANCELLED,
  State.SUPERSEDED,
  State.EXPIRED,
  State.LOST,
];

/** True where nothing more becomes of it. */
export function hasEnded(command: Command): boolean {
  return endedStates.includes(command.state);
}

/**
 * Follows one command until it ends. With `lines`, each change is printed as
 * JSON. Fails with exit code 3 where the time is over; Ctrl-C leaves it alone.
 */
export async function followCommand(
  cli: Cli,
  api: Api,
  start: Command,
  flags: OutputFlags & { timeout?: number },
  lines: boolean,
): Promise<Command> {
  const { limit, signal } = timeLimit(cli, flags.timeout);
  const shown = board(cli, `${start.id} at ${start.agent}`, flags.quiet === true || lines);
  let newest = start;
  const take = (command: Command): void => {
    newest = command;
    if (lines) printJsonLine(cli, json(CommandSchema, command));
    shown.show([commandRow(command)]);
  };
  const { clusterId, id } = start;
  for await (const event of follow(cli, (cursor, o) => api.commands.watchCommands({ clusterId, cursor }, o), signal)) {
    if (event.command?.id === id) take(event.command);
    // A snapshot has open commands only: this one may have ended before it.
    else if (event.snapshotEnd) take(await api.commands.getCommand({ id }));
    if (hasEnded(newest)) break;
  }
  shown.end();
  if (hasEnded(newest)) return newest;
  throw new Failure(
    limit.aborted ? exitCodes.notInTime : exitCodes.interrupted,
    `${id}: ${enumName(State, newest.state)}`,
    {
      reason: limit.aborted ? "NOT_IN_TIME" : "INTERRUPTED",
      lines: ["It goes on without this window. To watch it again:"],
      next: [`command watch ${id}`],
    },
  );
}

/** Fails unless the command ended as wanted. */
export function expectEnd(command: Command, wanted: State): void {
  if (command.state === wanted) return;
  const message = command.message === "" ? "" : `: ${command.message}`;
  throw new Failure(
    exitCodes.failed,
    `${command.id} at ${command.agent}: ${enumName(State, command.state)}${message}`,
    {
      reason: command.reason || enumName(State, command.state),
      next:
        command.state === State.SUPERSEDED
          ? [`command get ${command.supersededBy}`]
          : [`command retry ${command.id} --wait`, `deployment get ${command.deploymentId}`],
    },
  );
}

/** What a command does now, in words. */
export function commandText(command: Command): string {
  switch (command.state) {
    case State.RUNNING:
    case State.CANCELLING: {
      const percent = command.progressPercent > 0 ? `${command.progressPercent} %` : "";
      const doing = command.progressMessage || command.progressPhase.toLowerCase().replaceAll("_", " ");
      return [percent, doing].filter((part) => part !== "").join(", ");
    }
    case State.RETRY_WAIT:
      return `${command.reason}, next try ${when(command.dueAt)}`;
    default:
      return [command.reason, command.message].filter((part) => part !== "").join(": ");
  }
}

/** One command as a row of a board. */
export function commandRow(command: Command): Row {
  const state = enumName(State, command.state);
  return {
    key: command.id,
    cells: [
      command.agent,
      state.padEnd(10),
      `generation ${command.generation}`,
      `attempt ${command.attempt}`,
      commandText(command),
    ],
    mark: [state, command.attempt, command.reason, command.progressPhase].join("\n"),
  };
}
