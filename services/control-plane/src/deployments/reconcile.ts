/**
 * ReconcileDeployment: a deployment is converged to its newest wish once more.
 * Calls of one moment share a transaction.
 *
 * S1: a set waits for no deployment and no key: what another transaction has,
 *     and whatever is not in order (unknown, absent, not the caller's, asked
 *     before), goes alone after it, and gets its own answer there. Where it meets
 *     another lock (a slice's row) that is not free soon, all of it goes so.
 * S2: a set has each deployment once.
 * S3: after a commit whose answer is lost nobody's call is done again.
 */
import { setImmediate } from "node:timers/promises";
import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  Deployment_Desired,
  DeploymentSchema,
  type DeploymentStatus,
  DeploymentStatusSchema,
  type ReconcileDeploymentRequest,
  ReconcileDeploymentRequestSchema,
} from "@bowline/contract/deployments";
import { crashPoint, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { auditAll, type AuditEntry } from "../platform/audit-trail.ts";
import { createBatcher } from "../platform/batches.ts";
import { type Caller, seesAll } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { areFirst, type Call, keepAnswers, once } from "../platform/idempotency.ts";
import { isUndone, problemOf } from "../platform/problems.ts";
import { type Db, transact, type Work } from "../platform/transactions.ts";
import { lockNewestFree, type NewestWish } from "./newest.ts";
import { instancesOf, readDeployment } from "./queries.ts";

export interface ReconcilePorts {
  db: Db;
  events: Events;
  /** Enqueues a command for the newest wish of a deployment once more. */
  again(work: Work, deploymentId: string, caller: Caller): Promise<void>;
  /** The same of several that are locked, each once, and may be converged. */
  againAll(work: Work, renewals: readonly { wish: NewestWish; caller: Caller }[]): Promise<{ generation: number }[]>;
}

interface Asked {
  caller: Caller;
  request: ReconcileDeploymentRequest;
}

/** Calls that wait for the set before them: seconds of work; above it they are told to come again. */
const maxWaiting = 5_000;

/** Locks of slices are held for the milliseconds of a transaction as a rule; everybody else's calls wait meanwhile. */
const lockWaitMs = 250;

/** Of the whole database, not of one call (S3). */
const everybodys: readonly string[] = ["DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN"];

export function createReconcile(
  ports: ReconcilePorts,
): (caller: Caller, request: ReconcileDeploymentRequest) => Promise<DeploymentStatus> {
  const together = createBatcher<Asked, DeploymentStatus | undefined>((asked) => reconcileAll(ports, asked), {
    maxWaiting,
    overloaded: () => problem("OVERLOADED", "More calls wait for the database than this replica takes."),
    everybodys: (error) => everybodys.includes(problemOf(error).reason),
  });
  return async (caller, request) =>
    (await together.add({ caller, request })) ?? (await reconcileAlone(ports, { caller, request }));
}

/** Undefined: not done here. */
async function reconcileAll(ports: ReconcilePorts, asked: readonly Asked[]): Promise<(DeploymentStatus | undefined)[]> {
  try {
    return await reconcileTogether(ports, asked);
  } catch (error) {
    if (!isUndone(error)) throw error;
    return asked.map(() => undefined); // S1
  }
}

async function reconcileTogether(
  ports: ReconcilePorts,
  asked: readonly Asked[],
): Promise<(DeploymentStatus | undefined)[]> {
  const answers = await transact(ports.db, async (work) => {
    const answered: (DeploymentStatus | undefined)[] = asked.map(() => undefined);
    await sql`SET LOCAL lock_timeout = ${sql.lit(lockWaitMs)}`.execute(work.tx);
    const inOrder = await inOrderOf(work, asked);
    const commands = await ports.againAll(work, inOrder);
    const instances = await instancesOf(
      work.tx,
      inOrder.map(({ wish }) => wish.id),
    );
    for (const [index, { wish, place }] of inOrder.entries())
      answered[place] = statusOf(wish, commands[index]?.generation ?? 0, instances.get(wish.id));
    await keepAnswers(
      work,
      inOrder.map(({ wish, caller, request }) => ({ call: callOf({ caller, request }), response: answerOf(wish.id) })),
    );
    await auditAll(
      ports.events,
      work,
      inOrder.map(({ wish, caller }) => ({ caller, entry: entryOf(wish) })),
    );
    if (inOrder.length > 0) crashPoint("request.before-commit");
    return answered;
  });
  if (answers.some((answer) => answer !== undefined)) crashPoint("request.committed");
  // What the commit has to push is written first: answering takes longer than that, and nobody's command waits for it.
  await setImmediate();
  return answers;
}

/** Those that need nobody else's word, with their places among the calls (S1, S2). */
async function inOrderOf(
  work: Work,
  asked: readonly Asked[],
): Promise<(Asked & { wish: NewestWish; place: number })[]> {
  const areTheFirst = await areFirst(work, asked.map(callOf));
  const free = await lockNewestFree(
    work.tx,
    asked.filter((_, place) => areTheFirst[place]).map(({ request }) => request.id),
  );
  return asked.flatMap(({ caller, request }, place) => {
    const wish = areTheFirst[place] ? free.get(request.id) : undefined;
    if (wish === undefined || wish.isAbsent || wish.spec.length === 0) return [];
    if (!seesAll(caller.principal) && wish.organisationId !== caller.principal.organisationId) return [];
    free.delete(wish.id); // S2
    return [{ caller, request, wish, place }];
  });
}

function statusOf(
  wish: NewestWish,
  generation: number,
  instances: DeploymentStatus["instances"] = [],
): DeploymentStatus {
  const { id } = wish;
  return create(DeploymentStatusSchema, {
    ...{ id, generation, instances },
    agentId: wish.agentId,
    agent: wish.agent,
    clusterId: wish.clusterId,
    kind: wish.kind,
    ownerId: wish.ownerId,
    organisationId: wish.organisationId,
    desired: Deployment_Desired[wish.desired],
    observedGeneration: wish.observedGeneration,
    createdAt: timestampFromDate(wish.createdAt),
    updatedAt: timestampFromDate(wish.now),
    spec: create(DeploymentSchema, { ...fromBinary(DeploymentSchema, wish.spec), id, generation, sealedSecrets: {} }),
  });
}

async function reconcileAlone(ports: ReconcilePorts, { caller, request }: Asked): Promise<DeploymentStatus> {
  const read = async (): Promise<DeploymentStatus> => {
    const status = await readDeployment(ports.db, caller.principal, request.id);
    if (status === undefined) throw problem("NOT_FOUND", `There is no deployment ${request.id}.`);
    return status;
  };
  const before = await read();
  await once(ports.db, callOf({ caller, request }), async (work) => {
    await ports.again(work, before.id, caller);
    await auditAll(ports.events, work, [{ caller, entry: entryOf(before) }]);
    return answerOf(before.id);
  });
  return read();
}

/** What is kept for a repeated call: it reads the rest anew. */
function answerOf(id: string): DeploymentStatus {
  return create(DeploymentStatusSchema, { id });
}

function entryOf({ id, organisationId }: { id: string; organisationId: string }): AuditEntry {
  return { action: "deployment.reconcile", resourceKind: "deployment", resourceId: id, organisationId };
}

function callOf({
  caller,
  request,
}: Asked): Call<typeof ReconcileDeploymentRequestSchema, typeof DeploymentStatusSchema> {
  return {
    principal: caller.principal,
    method: "ReconcileDeployment",
    key: request.requestId,
    request,
    requestSchema: ReconcileDeploymentRequestSchema,
    responseSchema: DeploymentStatusSchema,
  };
}
