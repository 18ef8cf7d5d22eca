/** A client that watches commands, over whatever happens to the server: it goes on from its cursor. */
import { setTimeout as sleep } from "node:timers/promises";
import { Command_State } from "@bowline/contract/commands";
import { refusalOf } from "@bowline/session";
import { type CommandState, commandStates } from "@bowline/db";
import type { Api } from "../../e2e/api.ts";
import type { History } from "../history/history.ts";

export interface Watching {
  /** Commands whose end it was told. */
  ended(): ReadonlySet<string>;
  stop(): Promise<void>;
}

const stateNames = new Map<number, CommandState>(
  Object.entries(Command_State).map(([name, number]) => [number, name as CommandState]),
);

/** After a watch that broke. */
const againMs = 200;

export function watchCommands(api: () => Api, clusterId: string, history: History): Watching {
  const stopping = new AbortController();
  const ended = new Set<string>();
  let cursor = "";
  const running = (async () => {
    while (!stopping.signal.aborted) {
      try {
        for await (const event of api().commands.watchCommands({ cursor, clusterId }, { signal: stopping.signal })) {
          if (event.cursor !== "") cursor = event.cursor;
          if (event.command === undefined) continue;
          const { id: command, state: number, attempt } = event.command;
          const state = stateNames.get(number);
          if (state === undefined) throw new Error(`a watch tells state ${number}, which the contract does not have`);
          history.append({ kind: "watched", command, state, attempt });
          if (commandStates[state].waits === "nothing") ended.add(command);
        }
      } catch (error) {
        // The server went, and the next watch goes on there; or it said that the cursor is too old.
        if (refusalOf(error).reason === "CURSOR_EXPIRED") cursor = "";
        if (!stopping.signal.aborted) await sleep(againMs);
      }
    }
  })();
  return {
    ended: () => ended,
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
