/**
 * Sessions in the database, and what operators decide about agents:
 * sessions/open.ts, conflict.ts, disputes.ts, sync.ts, agents/*.ts and
 * installation/restored.ts of the product.
 */
import { Code } from "@connectrpc/connect";
import type { ConnectRequest, Sync } from "@bowline/contract/agent";
import { isInFlight } from "../../services/control-plane/src/commands/index.ts";
import { type Engine, lockSessions } from "./engine.ts";
import { agentGone, reconcile, retireAgent, sessionEnded } from "./reports.ts";
import type { Tx } from "./store.ts";
import { refusal } from "./transport.ts";
import { convergeLost, type Ids, settleForks } from "./wishes.ts";

export interface Opened {
  agentId: string;
  sessionId: string;
  epoch: number;
  incarnation: number;
  journalWhole: boolean;
}

/** A process that comes back later than this had no hand in a fight. */
const returnWithinMs = 300_000;

/** Rejects with a ConnectError where the agent is refused. */
export async function openSession(
  engine: Engine,
  facts: { agentId: string; counter: number; replicaId: string; sessionId: string; greeting: ConnectRequest },
): Promise<Opened> {
  const { agentId, greeting, counter, replicaId } = facts;
  const opened = await engine.store.transact(engine.process, async (tx): Promise<Opened | "conflict"> => {
    await tx.lock("agents", [agentId]);
    const agent = tx.get("agents", agentId);
    if (agent === undefined) throw refusal("ASSERTION_INVALID", Code.Unauthenticated);
    if (agent.state === "REVOKED") throw refusal("AGENT_REVOKED", Code.PermissionDenied);
    if (agent.state === "RETIRED") throw refusal("AGENT_RETIRED", Code.PermissionDenied);
    if (agent.state === "CONFLICT") throw refusal("AGENT_CONFLICT", Code.FailedPrecondition);
    await tx.lock("sessions", [agentId]);
    const before = tx.get("sessions", agentId);
    if (before !== undefined && counter <= before.assertionCounter)
      throw refusal("ASSERTION_REPLAYED", Code.Unauthenticated, { floor: String(before.assertionCounter) });
    const other = greeting.runtimeIdentity !== agent.runtimeIdentity;
    if (other || comesBack(tx, agentId, before?.processId ?? "", greeting.processId)) {
      tx.put("agents", { ...agent, state: "CONFLICT" });
      if (before !== undefined) tx.patch("sessions", agentId, { assertionCounter: counter });
      await endRow(engine, tx, agentId, "CONFLICT");
      tx.after(() => engine.signals.close(agentId, "CONFLICT"));
      return "conflict";
    }
    const incarnation = tx.get("installation", "installation")?.incarnation ?? 1;
    const ahead = greeting.incarnation > incarnation && agent.state === "ENROLLED";
    const epoch = Math.max(before?.epoch ?? 0, greeting.highestEpoch) + 1;
    const journalWhole = greeting.journalId === agent.journalId && greeting.journalCounter >= agent.journalCounter;
    await tx.statement();
    tx.put("sessions", {
      ...{ id: agentId, sessionId: facts.sessionId, epoch, assertionCounter: counter, replicaId },
      ...{ processId: greeting.processId, state: "SYNCING", endReason: "", openedAt: tx.now, endedAt: null },
    });
    if (before !== undefined && before.state !== "ENDED") {
      await sessionEnded(engine, tx, agentId, before.epoch);
      if (before.replicaId !== replicaId) tx.after(() => engine.signals.close(agentId, "SUPERSEDED", before.replicaId));
    }
    const { journalId, journalCounter } = greeting;
    tx.put("agents", { ...agent, journalId, journalCounter, ...(ahead ? { state: "AWAITING_DECISION" } : {}) });
    return { agentId, sessionId: facts.sessionId, epoch, incarnation, journalWhole };
  });
  if (opened === "conflict") throw refusal("AGENT_CONFLICT", Code.FailedPrecondition);
  return opened;
}

/** A, B, A: whether a process that was displaced just before takes the place of the one that displaced it. */
function comesBack(tx: Tx, agentId: string, from: string, to: string): boolean {
  if (from === to || from === "" || to === "") return false;
  const known = tx.get("displaced", `${agentId} ${to}`);
  if (known !== undefined && known.at > tx.now - returnWithinMs) return true;
  tx.put("displaced", { id: `${agentId} ${from}`, at: tx.now });
  return false;
}

/** Ends the session that is open, whichever, and unbinds what was bound to it. */
async function endRow(engine: Engine, tx: Tx, agentId: string, endReason: string): Promise<void> {
  await tx.lock("sessions", [agentId]);
  const row = tx.get("sessions", agentId);
  if (row === undefined || row.state === "ENDED") return;
  tx.put("sessions", { ...row, state: "ENDED", endReason, endedAt: tx.now });
  await sessionEnded(engine, tx, agentId, row.epoch);
}

/** `still`: only if that holds as well. */
export async function endSession(
  engine: Engine,
  agentId: string,
  epoch: number,
  reason: string,
  still: (tx: Tx) => boolean = () => true,
): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock("sessions", [agentId]);
    const row = tx.get("sessions", agentId);
    if (row?.epoch === epoch && row.state !== "ENDED" && still(tx)) await endRow(engine, tx, agentId, reason);
  });
}

export async function serveSession(engine: Engine, agentId: string, epoch: number): Promise<boolean> {
  return engine.store.transact(engine.process, async (tx) => {
    await tx.lock("sessions", [agentId]);
    const row = tx.get("sessions", agentId);
    if (row?.epoch !== epoch || row.state === "ENDED") return false;
    tx.put("sessions", { ...row, state: "SERVING" });
    return true;
  });
}

/** The first half of a Sync's end; undefined: another session took over. */
export function reconcileSync(engine: Engine, opened: Opened, pages: readonly Sync[]) {
  const { agentId, epoch, journalWhole } = opened;
  const journal = pages.flatMap((page) => page.journal);
  const listed = new Set(journal.map((entry) => entry.commandId));
  const results = pages.flatMap((page) => page.results).filter((result) => !listed.has(result.commandId));
  const known = [...journal, ...results].map(({ commandId, attempt }) => ({ commandId, attempt }));
  return engine.store.transact(engine.process, async (tx) => {
    const awaits = await awaitsDecision(engine, tx, { agentId, epoch }, pages);
    if (awaits === undefined) return undefined;
    return awaits ? "awaiting" : reconcile(engine, tx, { agentId, epoch, journalWhole, journal: known });
  });
}

/** False: another session took over. */
export function convergeWhatIsLost(engine: Engine, ids: Ids, opened: Opened, pages: readonly Sync[]): Promise<boolean> {
  const { agentId, epoch } = opened;
  const told = pages.flatMap((page) => [...page.deployments, ...page.highest, ...page.journal]);
  return engine.store.transact(engine.process, async (tx) => {
    if ((await lockSessions(engine, tx, [agentId])).get(agentId) !== epoch) return false;
    await convergeLost(engine, tx, ids, { agentId, told });
    return true;
  });
}

/** Writes what the agent has of another history; true: it awaits a decision; undefined: the session is not its any more. */
async function awaitsDecision(
  engine: Engine,
  tx: Tx,
  { agentId, epoch }: { agentId: string; epoch: number },
  pages: readonly Sync[],
): Promise<boolean | undefined> {
  await tx.lock("agents", [agentId]);
  if ((await lockSessions(engine, tx, [agentId])).get(agentId) !== epoch) return undefined;
  const agent = tx.get("agents", agentId);
  if (agent?.state !== "ENROLLED" && agent?.state !== "AWAITING_DECISION") return false;
  await tx.statement();
  const differs = new Map<string, { generation: number; digest: string }>();
  const inFlight = new Set(pages.flatMap((page) => page.journal).map((entry) => entry.deploymentId));
  const running = pages.flatMap((page) => page.deployments).map((one) => ({ ...one, runs: true }));
  const highest = pages
    .flatMap((page) => page.highest)
    .map((one) => ({ ...one, runs: inFlight.has(one.deploymentId) }));
  const told = [...running, ...highest];
  const runs = new Set(told.filter((one) => one.runs).map((one) => one.deploymentId));
  for (const { deploymentId, generation, digest } of told) {
    const row = tx.get("deployments", deploymentId);
    const own = row?.agentId === agentId ? row : undefined;
    const known = tx.get("generations", `${deploymentId} ${generation}`)?.digest;
    const wrong =
      own === undefined
        ? runs.has(deploymentId)
        : generation > own.generation || (known !== undefined && known !== digest);
    if (wrong && generation >= (differs.get(deploymentId)?.generation ?? 0))
      differs.set(deploymentId, { generation, digest });
  }
  for (const row of tx.all("disputes"))
    if (row.agentId === agentId && !differs.has(row.deploymentId)) tx.delete("disputes", row.id);
  for (const [deploymentId, { generation, digest }] of differs) {
    const id = `${agentId} ${deploymentId}`;
    const known = tx.get("disputes", id);
    const settled = known?.generation === generation && known.digest === digest && known.settled;
    tx.put("disputes", { id, agentId, deploymentId, generation, digest, settled });
  }
  const open = tx.all("disputes").some((row) => row.agentId === agentId && !row.settled);
  if (open && agent.state === "ENROLLED") tx.put("agents", { ...agent, state: "AWAITING_DECISION" });
  return open || agent.state === "AWAITING_DECISION";
}

/** An operator says whose history goes on. */
export async function acceptAgent(engine: Engine, ids: Ids, agentId: string, side: "AGENT" | "SERVER"): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock("clusters", ["one"]);
    await tx.lock("agents", [agentId]);
    const agent = tx.get("agents", agentId);
    if (agent?.state !== "AWAITING_DECISION") return;
    await endRow(engine, tx, agentId, "DECIDED");
    const open = tx.all("disputes").filter((row) => row.agentId === agentId && !row.settled);
    const forks = open
      .filter((row) => tx.get("deployments", row.deploymentId)?.agentId === agentId)
      .map((row) => ({ deploymentId: row.deploymentId, agentGeneration: row.generation, agentDigest: row.digest }));
    await settleForks(engine, tx, ids, forks, side);
    for (const row of open) tx.put("disputes", { ...row, settled: true });
    tx.put("agents", { ...agent, state: "ENROLLED" });
    tx.after(() => engine.signals.close(agentId, "DECIDED"));
  });
}

/** An operator lets one of two that claim to be this agent be it. */
export async function releaseAgent(engine: Engine, agentId: string): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock("agents", [agentId]);
    const agent = tx.get("agents", agentId);
    if (agent?.state !== "CONFLICT") return;
    tx.put("agents", { ...agent, state: "ENROLLED" });
    await tx.lock("sessions", [agentId]);
    tx.patch("sessions", agentId, { processId: "" });
    for (const row of tx.all("displaced")) if (row.id.startsWith(`${agentId} `)) tx.delete("displaced", row.id);
  });
}

/** The agent's key opens nothing any more; retired, with all that was at its host. */
export async function endLife(engine: Engine, agentId: string, end: "REVOKED" | "RETIRED"): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock("clusters", ["one"]);
    await tx.lock("agents", [agentId]);
    const agent = tx.get("agents", agentId);
    if (agent === undefined || agent.state === "RETIRED" || agent.state === end) return;
    tx.put("agents", { ...agent, state: end });
    await endRow(engine, tx, agentId, end);
    if (end === "RETIRED") await retireAgent(engine, tx, agentId);
    else await agentGone(engine, tx, agentId, false);
    tx.after(() => engine.signals.close(agentId, end));
  });
}

/** Another history of the database begins. */
export async function markRestored(engine: Engine): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock(
      "sessions",
      tx.all("sessions").map((row) => row.id),
    );
    for (const row of tx.all("sessions"))
      if (row.state !== "ENDED") tx.put("sessions", { ...row, state: "ENDED", endReason: "RESTORED", endedAt: tx.now });
    const bound = tx.all("commands").filter((row) => row.boundEpoch !== null && isInFlight(row.state));
    await tx.lock(
      "commands",
      bound.map((row) => row.id),
    );
    for (const { id } of bound) tx.patch("commands", id, { boundEpoch: null, unboundAt: tx.now, updatedAt: tx.now });
    await tx.lock("installation", ["installation"]);
    const { incarnation = 1 } = tx.get("installation", "installation") ?? {};
    tx.put("installation", {
      id: "installation",
      incarnation: Math.max(incarnation + 1, 2 + Math.floor(tx.now / 60_000)),
      dispatchHeld: true,
    });
  });
}

export async function confirmDispatch(engine: Engine): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.lock("installation", ["installation"]);
    tx.patch("installation", "installation", { dispatchHeld: false });
  });
}
