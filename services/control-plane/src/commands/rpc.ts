/** CommandService. */
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  CommandSchema,
  CommandService,
  ListCommandsResponseSchema,
  RetryCommandRequestSchema,
  type WatchCommandsResponse,
  WatchCommandsResponseSchema,
  type Command,
} from "@bowline/contract/commands";
import { problem } from "@bowline/kernel";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf, type Principal, seesAll } from "../platform/context.ts";
import { once } from "../platform/idempotency.ts";
import { transact } from "../platform/transactions.ts";
import { watch } from "../platform/watch.ts";
import type { EnginePorts } from "./ports.ts";
import { type CommandFilter, listCommands, readCommands } from "./queries.ts";
import { cancel, retry } from "./requests.ts";

export function registerCommands(router: ConnectRouter, ports: EnginePorts): void {
  const { db, events } = ports;

  async function read(principal: Principal, id: string): Promise<Command> {
    const [command] = await readCommands(ports, principal, { ids: [id] });
    if (command === undefined) throw problem("NOT_FOUND", `There is no command ${id}.`);
    return command;
  }

  async function* watchCommands(
    principal: Principal,
    cursor: string,
    filter: CommandFilter,
    signal: AbortSignal,
  ): AsyncGenerator<WatchCommandsResponse> {
    yield* watch<WatchCommandsResponse>(
      events,
      cursor,
      {
        topic: "command",
        snapshot: async function* () {
          // A publish is watched to its end, so its ended commands belong to the picture.
          const openOnly = !filter.productPublishId;
          for (const command of await readCommands(ports, principal, { ...filter, openOnly }))
            yield create(WatchCommandsResponseSchema, { command });
        },
        wants: (event) => seesAll(principal) || event.organisationId === principal.organisationId,
        read: async (event) => {
          const [command] = await readCommands(ports, principal, { ...filter, ids: [event.subjectId] });
          return command === undefined ? undefined : create(WatchCommandsResponseSchema, { command });
        },
        empty: ({ snapshotEnd }) => create(WatchCommandsResponseSchema, { snapshotEnd }),
        withCursor: (message, position) => Object.assign(message, { cursor: position }),
      },
      signal,
    );
  }

  const changed = async (
    caller: Caller,
    id: string,
    action: string,
    body: (before: Command) => Promise<void>,
  ): Promise<Command> => {
    const before = await read(caller.principal, id);
    await body(before);
    return read(caller.principal, id);
  };

  router.service(CommandService, {
    listCommands: async (request, context) =>
      create(ListCommandsResponseSchema, await listCommands(ports, callerOf(context).principal, request)),
    getCommand: (request, context) => read(callerOf(context).principal, request.id),
    cancelCommand: (request, context) => {
      const caller = callerOf(context);
      return changed(caller, request.id, "command.cancel", async (before) => {
        await transact(db, async (work) => {
          await cancel(ports, work, before.id);
          await audit(events, work, caller, {
            action: "command.cancel",
            resourceKind: "command",
            resourceId: before.id,
            organisationId: before.organisationId,
          });
        });
      });
    },
    retryCommand: async (request, context) => {
      const caller = callerOf(context);
      const before = await read(caller.principal, request.id);
      const answer = await once(
        db,
        {
          principal: caller.principal,
          method: "RetryCommand",
          key: request.requestId,
          request,
          requestSchema: RetryCommandRequestSchema,
          responseSchema: CommandSchema,
        },
        async (work) => {
          const { commandId } = await retry(ports, work, before.id, caller.principal.id);
          await audit(events, work, caller, {
            action: "command.retry",
            resourceKind: "command",
            resourceId: before.id,
            organisationId: before.organisationId,
            after: { commandId },
          });
          return create(CommandSchema, { id: commandId });
        },
      );
      return read(caller.principal, answer.id);
    },
    watchCommands: (request, context) =>
      watchCommands(
        callerOf(context).principal,
        request.cursor,
        { clusterId: request.clusterId, productPublishId: request.productPublishId },
        context.signal,
      ),
  });
}
