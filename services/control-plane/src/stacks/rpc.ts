/** StackService and RolloutService. */
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import {
  ApplyStackRequestSchema,
  type ApplyStackResponse,
  ApplyStackResponseSchema,
  DiffStackResponseSchema,
  DownStackRequestSchema,
  ListRolloutsResponseSchema,
  ListStackRevisionsResponseSchema,
  ListStacksResponseSchema,
  RestartStackRequestSchema,
  RollbackStackRequestSchema,
  type Rollout,
  RolloutService,
  type Stack,
  StackSchema,
  StackService,
  StartStackRequestSchema,
  StopStackRequestSchema,
  type WatchStackResponse,
  WatchStackResponseSchema,
} from "@bowline/contract/stacks";
import { problem } from "@bowline/kernel";
import { type Caller, callerOf, type Principal, seesAll } from "../platform/context.ts";
import { once } from "../platform/idempotency.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { watch } from "../platform/watch.ts";
import { applyStack } from "./apply.ts";
import { validateSource } from "./compose-source.ts";
import { planApply } from "./plan.ts";
import type { StackPorts } from "./ports.ts";
import { listRevisions, listRollouts, readRevision, readRollout } from "./history-queries.ts";
import { listStacks, readStacks } from "./queries.ts";
import { diffRevisions } from "./revisions.ts";
import { abort, pauseOrResume, promote } from "./rollout-requests.ts";
import { getStack } from "./rows.ts";
import { withoutContents } from "./stack-secrets.ts";
import { down, restart, rollBack, stopOrStart } from "./stacks.ts";

export function registerStacks(router: ConnectRouter, ports: StackPorts): void {
  const db = () => ports.engine().db;

  async function read(principal: Principal, id: string): Promise<Stack> {
    const [stack] = await readStacks(db(), principal, { ids: [id] });
    if (stack === undefined) throw problem("NOT_FOUND", `There is no stack ${id}.`);
    return stack;
  }

  /** Runs work once per idempotency key and answers with the stack as it is then. */
  async function started<Req extends DescMessage>(
    context: HandlerContext,
    requestSchema: Req,
    request: MessageShape<Req> & { requestId: string },
    body: (work: Work, caller: Caller) => Promise<string>,
  ): Promise<Stack> {
    const caller = callerOf(context);
    const answer = await once(
      db(),
      {
        principal: caller.principal,
        method: context.method.name,
        key: request.requestId,
        request,
        requestSchema,
        responseSchema: StackSchema,
      },
      async (work) => create(StackSchema, { id: await body(work, caller) }),
    );
    return read(caller.principal, answer.id);
  }

  router.service(StackService, {
    validateStack: async (request, context) => {
      const { source, clusterId } = request;
      if (source === undefined) throw problem("INVALID_ARGUMENT", "There is no source.");
      const { principal } = callerOf(context);
      const policy = clusterId === "" ? undefined : await ports.clusterPolicy(db(), principal, clusterId);
      return validateSource({ ...request, source }, policy);
    },
    applyStack: async (request, context): Promise<ApplyStackResponse> => {
      const { source } = request;
      if (source === undefined) throw problem("INVALID_ARGUMENT", "There is no source.");
      const caller = callerOf(context);
      const planned = await planApply(ports, caller, { ...request, source });
      if (request.dryRun) {
        const stack = planned.stackId === undefined ? undefined : await read(caller.principal, planned.stackId);
        return create(ApplyStackResponseSchema, { ...planned.response, ...(stack === undefined ? {} : { stack }) });
      }
      const stack = await started(context, ApplyStackRequestSchema, withoutContents(ports, request, source), (work) =>
        applyStack(ports, work, caller, { ...request, source }),
      );
      return create(ApplyStackResponseSchema, { ...planned.response, stack });
    },
    listStacks: async (request, context) =>
      create(ListStacksResponseSchema, await listStacks(db(), callerOf(context).principal, request)),
    getStack: async (request, context) => {
      const { principal } = callerOf(context);
      return read(principal, (await getStack(db(), principal, request.id)).id);
    },
    downStack: (request, context) =>
      started(context, DownStackRequestSchema, request, (work, caller) => down(ports, work, caller, request)),
    stopStack: (request, context) =>
      started(context, StopStackRequestSchema, request, (work, caller) =>
        stopOrStart(ports, work, caller, request.id, "STOPPED"),
      ),
    startStack: (request, context) =>
      started(context, StartStackRequestSchema, request, (work, caller) =>
        stopOrStart(ports, work, caller, request.id, "RUNNING"),
      ),
    restartStack: (request, context) =>
      started(context, RestartStackRequestSchema, request, (work, caller) => restart(ports, work, caller, request)),
    rollbackStack: (request, context) =>
      started(context, RollbackStackRequestSchema, request, (work, caller) => rollBack(ports, work, caller, request)),
    listStackRevisions: async (request, context) =>
      create(ListStackRevisionsResponseSchema, await listRevisions(db(), callerOf(context).principal, request)),
    getStackRevision: (request, context) => readRevision(db(), callerOf(context).principal, request),
    diffStack: async (request, context) => {
      const stack = await getStack(db(), callerOf(context).principal, request.id);
      return create(DiffStackResponseSchema, { changes: await diffRevisions(db(), stack, request) });
    },
    watchStack: async function* (request, context) {
      const { principal } = callerOf(context);
      const only = request.id === "" ? undefined : (await getStack(db(), principal, request.id)).id;
      yield* watch<WatchStackResponse>(
        ports.engine().events,
        request.cursor,
        {
          topic: "stack",
          snapshot: async function* () {
            for (const stack of await readStacks(db(), principal, only === undefined ? {} : { ids: [only] }))
              yield create(WatchStackResponseSchema, { stack });
          },
          wants: (event) =>
            (only === undefined || event.subjectId === only) &&
            (seesAll(principal) || event.organisationId === principal.organisationId),
          read: async (event) => {
            const [stack] = await readStacks(db(), principal, { ids: [event.subjectId] });
            return stack === undefined ? undefined : create(WatchStackResponseSchema, { stack });
          },
          empty: ({ snapshotEnd }) => create(WatchStackResponseSchema, { snapshotEnd }),
          withCursor: (message, cursor) => Object.assign(message, { cursor }),
        },
        context.signal,
      );
    },
  });

  /** Does something with a rollout that the caller may know of, and answers with it as it is then. */
  async function rolled(
    context: HandlerContext,
    id: string,
    body: (work: Work, caller: Caller) => Promise<void>,
  ): Promise<Rollout> {
    const caller = callerOf(context);
    await readRollout(db(), caller.principal, id);
    await transact(db(), (work) => body(work, caller));
    return readRollout(db(), caller.principal, id);
  }

  router.service(RolloutService, {
    listRollouts: async (request, context) =>
      create(ListRolloutsResponseSchema, await listRollouts(db(), callerOf(context).principal, request)),
    getRollout: (request, context) => readRollout(db(), callerOf(context).principal, request.id),
    pauseRollout: (request, context) =>
      rolled(context, request.id, (work) => pauseOrResume(ports, work, callerOf(context), request.id, "PAUSED")),
    resumeRollout: (request, context) =>
      rolled(context, request.id, (work) => pauseOrResume(ports, work, callerOf(context), request.id, "RUNNING")),
    promoteRollout: (request, context) =>
      rolled(context, request.id, (work) => promote(ports, work, callerOf(context), request)),
    abortRollout: (request, context) =>
      rolled(context, request.id, (work, caller) => abort(ports, work, caller, request.id)),
  });
}
