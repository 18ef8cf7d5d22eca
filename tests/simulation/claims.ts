/** READY becomes ASSIGNED, and what is looked up about it: commands/claim.ts and sessions/fetch.ts of the product. */
import { isInFlight } from "../../services/control-plane/src/commands/index.ts";
import { type Engine, lockSessions } from "./engine.ts";
import type { Store, Tx } from "./store.ts";
import { type CommandRow, snapshotOf, type Tables } from "./tables.ts";
import type { Process } from "./world.ts";

export interface Claimant {
  agentId: string;
  epoch: number;
  window: number;
  onlyReducing: boolean;
}

/**
 * One statement: it sees what was committed when it began, and of the rows that it locks what they are then; what
 * another transaction holds is skipped.
 */
export async function claim(engine: Engine, tx: Tx, claimants: readonly Claimant[]): Promise<CommandRow[]> {
  if (claimants.length === 0) return [];
  const seen = snapshotOf(tx.store.tables);
  if (seen.installation.get("installation")?.dispatchHeld === true) return [];
  const enrolled = claimants
    .filter(({ agentId }) => seen.agents.get(agentId)?.state === "ENROLLED")
    .toSorted((a, b) => (a.agentId < b.agentId ? -1 : 1));
  const open = await lockSessions(
    engine,
    tx,
    enrolled.map(({ agentId }) => agentId),
  );
  const claimed: CommandRow[] = [];
  for (const { agentId, epoch, window, onlyReducing } of enrolled) {
    const session = tx.get("sessions", agentId);
    if (engine.rules.claimNeedsSession && (open.get(agentId) !== epoch || session?.state !== "SERVING")) continue; // E1
    const own = tx.all("commands", seen).filter((row) => row.agentId === agentId);
    const flying = own.filter((row) => isInFlight(row.state)).length;
    const fits = flying < window && !onlyReducing;
    let room = Math.max(0, (fits ? 0 : 1) + window - flying);
    const ready = own
      .filter((row) => row.state === "READY" && (row.reduces || fits))
      .toSorted((a, b) => a.priority - b.priority || a.sequence - b.sequence);
    for (const { id } of ready) {
      if (room === 0) break;
      if (!tx.store.isFree(tx, `commands ${id}`)) continue; // SKIP LOCKED
      await tx.store.lock(tx, `commands ${id}`, "update");
      const row = tx.get("commands", id);
      if (row?.state !== "READY") continue;
      room -= 1;
      claimed.push(take(engine, tx, row, epoch));
    }
  }
  return claimed;
}

function take(engine: Engine, tx: Tx, row: CommandRow, epoch: number): CommandRow {
  const attempt = engine.rules.claimCountsAttempts ? row.attempt + 1 : Math.max(1, row.attempt); // E2
  const after: CommandRow = {
    ...row,
    ...{ state: "ASSIGNED", attempt, boundEpoch: epoch, unboundAt: null, cancelReason: null },
    ...{ assignedAt: tx.now, receivedAt: null, updatedAt: tx.now },
  };
  const facts = { ...row, maxRetries: row.limits.maxRetries, newerWaits: false, timeLeft: true };
  engine.moved(
    tx,
    facts,
    { kind: "claimed", epoch },
    { kind: "moved", to: "ASSIGNED", facts: { ...facts, ...after }, effects: [] },
  );
  tx.put("commands", after);
  return after;
}

const commandsOf = (tables: Tables): CommandRow[] => [...tables.commands.values()];
const held = (tables: Tables): boolean => tables.installation.get("installation")?.dispatchHeld === true;

/** The commands that one session has in flight without a receipt, to be pushed again. */
export function unreceipted(store: Store, process: Process, agentId: string, epoch: number, id?: string) {
  return store.look(process, (tables) =>
    held(tables)
      ? []
      : commandsOf(tables)
          .filter((row) => row.agentId === agentId && row.state === "ASSIGNED" && row.boundEpoch === epoch)
          .filter((row) => id === undefined || row.id === id)
          .toSorted((a, b) => a.priority - b.priority || a.sequence - b.sequence),
  );
}

/** What the sessions of this replica are to end. */
export function cancelling(store: Store, process: Process, replicaId: string, agentIds?: readonly string[]) {
  return store.look(process, (tables) =>
    commandsOf(tables).filter((row) => {
      const session = tables.sessions.get(row.agentId);
      return (
        row.state === "CANCELLING" &&
        session?.state === "SERVING" &&
        session.replicaId === replicaId &&
        row.boundEpoch === session.epoch &&
        (agentIds === undefined || agentIds.includes(row.agentId))
      );
    }),
  );
}

/** Agents with a session here and something to claim. */
export function agentsWithReady(store: Store, process: Process, replicaId: string): Promise<string[]> {
  return store.look(process, (tables) =>
    [...tables.sessions.values()]
      .filter((session) => session.replicaId === replicaId && session.state === "SERVING")
      .map((session) => session.id)
      .filter((agentId) => commandsOf(tables).some((row) => row.agentId === agentId && row.state === "READY")),
  );
}

/** E5: the bytes of that command's generation, while it is in flight for that session; else undefined. */
export function specFor(
  engine: Engine,
  asked: { agentId: string; sessionId: string; epoch: number; commandId: string; attempt: number },
) {
  const { agentId, epoch, sessionId, commandId, attempt } = asked;
  return engine.store.look(engine.process, (tables) => {
    const session = tables.sessions.get(agentId);
    const may = tables.agents.get(agentId)?.state === "ENROLLED";
    if (!may || session?.epoch !== epoch || session.sessionId !== sessionId || session.state === "ENDED")
      return "expired";
    const row = tables.commands.get(commandId);
    if (row === undefined || row.agentId !== agentId || row.boundEpoch !== epoch) return undefined;
    if (!isInFlight(row.state) || row.attempt !== attempt) return undefined;
    const found = tables.generations.get(`${row.deploymentId} ${row.generation}`);
    return found === undefined ? undefined : { row, ...found };
  });
}
