/** What people want of commands: commands/enqueue.ts, requests.ts, forks.ts, afresh.ts and deployments/store.ts of the product. */
import { createHash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { isTerminal, isWaiting } from "../../services/control-plane/src/commands/index.ts";
import { apply, changeSet, type Engine, lockCommands, lockDeployments, openCommands, write } from "./engine.ts";
import type { Tx } from "./store.ts";
import type { CommandRow, Desired, Limits } from "./tables.ts";

/** A call that the product answers with this reason. */
export class Refused extends Error {
  readonly reason: string;

  constructor(reason: string) {
    super(reason);
    this.reason = reason;
  }
}

export interface Wish {
  /** Undefined: a new one, with the id that `newId` gives. */
  deploymentId: string | undefined;
  agentId: string;
  desired: Desired;
  removeVolumes: boolean;
  /** What tells this spec from others of the same generation, in another history. */
  content: string;
  limits: Limits;
  /** As a generation above that one. */
  above?: number;
}

export interface Enqueued {
  commandId: string;
  deploymentId: string;
  generation: number;
}

export interface Ids {
  command(): string;
  deployment(): string;
}

const desiredOf = {
  RUNNING: Deployment_Desired.RUNNING,
  STOPPED: Deployment_Desired.STOPPED,
  PAUSED: Deployment_Desired.PAUSED,
  ABSENT: Deployment_Desired.ABSENT,
} as const satisfies Record<Desired, Deployment_Desired>;

const reducingPriority = 0;
const usualPriority = 5;

/** Enqueues one wish. Throws DEPLOYMENT_ABSENT. */
export async function converge(engine: Engine, tx: Tx, ids: Ids, wish: Wish): Promise<Enqueued> {
  const { now } = tx;
  const before = await deploymentOf(engine, tx, wish.deploymentId);
  const deploymentId = wish.deploymentId ?? ids.deployment();
  const generation = Math.max(before?.generation ?? 0, wish.above ?? 0) + 1;
  const { desired } = wish;
  if (before?.desired === "ABSENT" && !(desired === "ABSENT" && (wish.removeVolumes || wish.above !== undefined)))
    throw new Refused("DEPLOYMENT_ABSENT");
  const spec = toBinary(
    DeploymentSchema,
    create(DeploymentSchema, {
      ...{ id: deploymentId, generation, desired: desiredOf[desired], removeVolumes: wish.removeVolumes },
      workloads: [{ name: "app", image: wish.content }],
    }),
  );
  const digest = createHash("sha256").update(spec).digest("hex");
  const kept = before ?? { id: deploymentId, agentId: wish.agentId, observedGeneration: 0, isAbsent: false };
  await tx.statement();
  tx.put("deployments", { ...kept, desired, generation, heldReason: "" });
  tx.put("generations", { id: `${deploymentId} ${generation}`, spec, digest });
  const commandId = ids.command();
  const reduces = desired !== "RUNNING";
  let blocked = false;
  const open = before === undefined ? [] : await lockCommands(tx, { openOf: [deploymentId] });
  const set = changeSet();
  for (const command of engine.rules.enqueueSupersedes ? open : []) {
    const superseded = isWaiting(command.state) ? { supersededBy: commandId } : {};
    apply(engine, tx, command, { kind: "newer", reduces }, set, superseded);
    blocked ||= command.state !== "SUPERSEDED";
  }
  await write(engine, tx, set);
  const { limits } = wish;
  await tx.statement();
  tx.put("commands", {
    ...{ id: commandId, deploymentId, agentId: wish.agentId, generation, digest },
    ...{ isRemoval: desired === "ABSENT", reduces, limits },
    priority: reduces ? reducingPriority : usualPriority,
    sequence: (engine.store.sequence += 1),
    deadlineAt: limits.deadlineMs === undefined ? null : now + limits.deadlineMs,
    ...fresh,
    state: blocked ? "BLOCKED" : "READY", // E4
    updatedAt: now,
  });
  tx.after(() => engine.signals.wake([wish.agentId]));
  return { commandId, deploymentId, generation };
}

async function deploymentOf(engine: Engine, tx: Tx, id: string | undefined) {
  if (id === undefined) return undefined;
  if (engine.rules.enqueueLocks) return (await lockDeployments(tx, [id])).get(id);
  await tx.statement();
  return tx.get("deployments", id);
}

const fresh = {
  attempt: 0,
  failures: 0,
  boundEpoch: null,
  everReceived: false,
  sessionsWithoutReceipt: 0,
  cancelReason: null,
  outcomeAttempt: null,
  lateOutcome: "",
  supersededBy: "",
  reason: "",
  dueAt: null,
  assignedAt: null,
  receivedAt: null,
  cancellingAt: null,
  unboundAt: null,
  endedAt: null,
} satisfies Partial<CommandRow>;

/** Throws NOT_FOUND, COMMAND_ENDED, REMOVAL_NOT_CANCELLABLE. */
export async function cancel(engine: Engine, tx: Tx, commandId: string): Promise<void> {
  const command = await lockOne(tx, commandId);
  const set = changeSet();
  const verdict = apply(engine, tx, command, { kind: "cancel" }, set, { reason: "CANCEL_REQUESTED" });
  if (verdict.kind !== "refused") return write(engine, tx, set);
  throw new Refused(verdict.why === "REMOVAL_NOT_CANCELLABLE" ? verdict.why : "COMMAND_ENDED");
}

async function lockOne(tx: Tx, commandId: string) {
  await tx.statement();
  const row = tx.get("commands", commandId);
  if (row === undefined) throw new Refused("NOT_FOUND");
  await lockDeployments(tx, [row.deploymentId]);
  const [command] = await lockCommands(tx, { ids: [commandId] });
  if (command === undefined) throw new Refused("NOT_FOUND");
  return command;
}

/** Throws NOT_FOUND, COMMAND_OPEN, NEWER_GENERATION, DEPLOYMENT_ABSENT, SPEC_UNKNOWN. */
export async function retry(engine: Engine, tx: Tx, ids: Ids, commandId: string): Promise<Enqueued> {
  const command = await lockOne(tx, commandId);
  if (!isTerminal(command.state)) throw new Refused("COMMAND_OPEN");
  if (tx.get("deployments", command.deploymentId)?.generation !== command.generation)
    throw new Refused("NEWER_GENERATION");
  return again(engine, tx, ids, command.deploymentId, { limits: { ...command.limits, deadlineMs: undefined } });
}

const defaultLimits: Limits = {
  maxRetries: 3,
  runTimeoutMs: 300_000,
  graceMs: 30_000,
  cancelLimitMs: 60_000,
  offlineLifeMs: 86_400_000,
  deadlineMs: undefined,
};

/** Converges a deployment to its newest wish once more. */
export async function again(
  engine: Engine,
  tx: Tx,
  ids: Ids,
  deploymentId: string,
  how: { limits?: Limits; above?: number },
): Promise<Enqueued> {
  await tx.statement();
  const row = tx.get("deployments", deploymentId);
  const generation = row && tx.get("generations", `${deploymentId} ${row.generation}`);
  if (row === undefined || generation === undefined) throw new Refused("NOT_FOUND");
  if (row.isAbsent && how.above === undefined) throw new Refused("DEPLOYMENT_ABSENT");
  if (generation.spec.length === 0) throw new Refused("SPEC_UNKNOWN");
  const { removeVolumes, workloads } = fromBinary(DeploymentSchema, generation.spec);
  return converge(engine, tx, ids, {
    ...{ deploymentId, agentId: row.agentId, desired: row.desired, limits: how.limits ?? defaultLimits },
    ...{ removeVolumes, content: workloads[0]?.image ?? "" },
    ...(how.above === undefined ? {} : { above: how.above }),
  });
}

export interface Fork {
  deploymentId: string;
  agentGeneration: number;
  agentDigest: string;
}

/** Settles deployments of one agent whose history is another one (forks.ts). */
export async function settleForks(
  engine: Engine,
  tx: Tx,
  ids: Ids,
  forks: readonly Fork[],
  side: "AGENT" | "SERVER",
): Promise<void> {
  const deployments = await lockDeployments(
    tx,
    forks.map((fork) => fork.deploymentId),
  );
  for (const fork of forks.toSorted((a, b) => (a.deploymentId < b.deploymentId ? -1 : 1))) {
    const deployment = deployments.get(fork.deploymentId);
    if (deployment === undefined) continue;
    const open = await lockCommands(tx, { openOf: [fork.deploymentId] });
    const owesNothing = deployment.isAbsent && open.length === 0;
    const reissued = !owesNothing && (side === "SERVER" || deployment.desired === "ABSENT");
    const set = changeSet();
    for (const command of open.toSorted((a, b) => Number(b.state === "BLOCKED") - Number(a.state === "BLOCKED")))
      apply(engine, tx, { ...command, newerWaits: false }, { kind: "forked", reissued }, set, {
        reason: "HISTORY_FORKED",
      });
    await write(engine, tx, set);
    if (reissued) {
      await again(engine, tx, ids, fork.deploymentId, { above: Math.max(deployment.generation, fork.agentGeneration) });
    } else {
      const generation = Math.max(deployment.generation + 1, fork.agentGeneration);
      tx.patch("deployments", fork.deploymentId, {
        generation,
        heldReason: deployment.isAbsent ? "" : "AGENT_COPY",
        observedGeneration: generation,
      });
      const id = `${fork.deploymentId} ${generation}`;
      tx.put("generations", { id, spec: new Uint8Array(), digest: fork.agentDigest });
    }
  }
}

export interface Told {
  agentId: string;
  told: readonly { deploymentId: string; generation: number }[];
}

/** What the server has recorded as converged and a complete Sync does not have is wished again (afresh.ts). */
export async function convergeLost(engine: Engine, tx: Tx, ids: Ids, sync: Told): Promise<number> {
  await tx.statement();
  if (lostOf(tx, sync).length === 0) return 0;
  const present = tx.all("deployments").filter((row) => row.agentId === sync.agentId && !row.isAbsent);
  await lockDeployments(
    tx,
    present.map((row) => row.id),
  );
  const lost = lostOf(tx, sync);
  for (const id of lost) {
    const last = tx
      .all("commands")
      .filter((row) => row.deploymentId === id)
      .toSorted((a, b) => b.generation - a.generation)[0];
    await again(engine, tx, ids, id, last === undefined ? {} : { limits: { ...last.limits, deadlineMs: undefined } });
  }
  return lost.length;
}

function lostOf(tx: Tx, { agentId, told }: Told): string[] {
  const highest = new Map<string, number>();
  for (const one of told) highest.set(one.deploymentId, Math.max(one.generation, highest.get(one.deploymentId) ?? 0));
  return tx
    .all("deployments")
    .filter(
      (row) =>
        row.agentId === agentId &&
        !row.isAbsent &&
        row.observedGeneration > (highest.get(row.id) ?? 0) &&
        (tx.get("generations", `${row.id} ${row.generation}`)?.spec.length ?? 0) > 0 &&
        openCommands(tx, (command) => command.deploymentId === row.id).length === 0,
    )
    .map((row) => row.id)
    .toSorted();
}
