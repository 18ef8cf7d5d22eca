/** The end of a Sync: what the agent has is reconciled, its results are recorded, and the session serves. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type DeployResult,
  type JournalEntry,
  ResultAck_Disposition,
  type Sync,
  SyncDecision_Action,
  type SyncReplySchema,
} from "@bowline/contract/agent";
import { convergeLapsed, convergeLost, type EnginePorts, lockSessions, reconcile } from "../commands/index.ts";
import { transact } from "../platform/transactions.ts";
import { awaitsDecision } from "./disputes.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { Intake } from "./intake.ts";
import type { LiveSession } from "./live.ts";
import { type OpenedSession, serveSession } from "./open.ts";
import type { PlainSyncs } from "./plain-syncs.ts";

/** What the end of a Sync needs of its replica. */
export interface SyncPorts {
  engine: () => EnginePorts;
  intake: Intake;
  dispatcher: Dispatcher;
  plainSyncs: PlainSyncs;
}

/** Entries of one Sync: far above any window, far below what memory minds. */
export const maxSyncEntries = 100_000;

/** How many of them a page has. */
export function entriesOf(page: Sync): number {
  return page.journal.length + page.results.length + page.deployments.length + page.highest.length;
}

/**
 * Takes the pages of a Sync that is complete, and hands the reply to `answer`
 * before anything is pushed. Ends the session, and answers nothing, where
 * another one took over meanwhile.
 */
export async function finishSync(
  ports: SyncPorts,
  session: LiveSession,
  opened: Pick<OpenedSession, "journalWhole" | "tellsAll">,
  pages: readonly Sync[],
  answer: (reply: MessageInitShape<typeof SyncReplySchema>) => void,
): Promise<void> {
  const { agentId, epoch } = session;
  if (await ports.plainSyncs.serve({ ...opened, agentId, epoch, pages })) {
    answer({ last: true });
    session.phase = "serving";
    return ports.dispatcher.wake([agentId]);
  }
  const journal = pages.flatMap((page) => page.journal);
  const results = pages.flatMap((page) => page.results);
  const listed = new Set(journal.map((entry) => entry.commandId));
  // A command with a result is one that the agent has, though it runs no more.
  const known = [...journal, ...results.filter((result) => !listed.has(result.commandId)).map(entryOf)];
  const engine = ports.engine();
  const decided = await transact(engine.db, async (work) => {
    const awaits = await awaitsDecision(engine, work, session, pages);
    if (awaits === undefined) return undefined;
    if (awaits) return "awaiting" as const; // H1
    return reconcile(engine, work, { agentId, epoch, journalWhole: opened.journalWhole, journal: known });
  });
  if (decided === undefined) return session.close("SUPERSEDED");
  if (decided === "awaiting") {
    if (!(await serveSession(engine, agentId, epoch))) return session.close("SUPERSEDED");
    answer(kept(journal, results));
    session.phase = "serving"; // the agent's state keeps claims away
    return;
  }
  if (!(await convergeWhatIsOwed(engine, session, opened, pages))) return session.close("SUPERSEDED");
  const acks = await Promise.all(results.map((message) => ports.intake.result({ agentId, epoch, message })));
  if (!(await serveSession(ports.engine(), agentId, epoch))) return session.close("SUPERSEDED");
  answer({
    decisions: decided.filter((decision) => listed.has(decision.commandId)),
    results: acks.map(({ commandId, attempt, disposition }) => ({ commandId, attempt, disposition })),
    last: true,
  });
  // Read before anything can be claimed for it: what is claimed from then on is pushed by its claim, once.
  const unreceipted = await ports.dispatcher.unreceipted(session);
  session.phase = "serving";
  unreceipted.push();
  ports.dispatcher.wake([agentId]);
}

/**
 * In a transaction of its own: it takes other locks than the one before. Again where this replica dies in between, since
 * the session is not served yet. False: another session took over.
 */
async function convergeWhatIsOwed(
  engine: EnginePorts,
  { agentId, epoch }: LiveSession,
  { journalWhole, tellsAll }: Pick<OpenedSession, "journalWhole" | "tellsAll">,
  pages: readonly Sync[],
): Promise<boolean> {
  const told = pages.flatMap((page) => [...page.deployments, ...page.highest, ...page.journal]);
  return transact(engine.db, async (work) => {
    if ((await lockSessions(work.tx, [agentId])).get(agentId) !== epoch) return false;
    await convergeLapsed(engine, work, agentId);
    if (!tellsAll) return true;
    const count = await convergeLost(engine, work, { agentId, journalWhole, told });
    if (count > 0)
      engine.log.warn({ agentId, count }, "an agent's journal has lost what it had; it is converged again");
    return true;
  });
}

/** H1: what the agent has in flight goes on, and its results stay with it. */
function kept(journal: readonly JournalEntry[], results: readonly DeployResult[]) {
  return {
    decisions: journal.map(({ commandId, attempt }) => ({ commandId, attempt, action: SyncDecision_Action.HOLD })),
    results: results.map(({ commandId, attempt }) => ({
      ...{ commandId, attempt },
      disposition: ResultAck_Disposition.UNKNOWN,
    })),
    last: true,
    awaitingDecision: true,
  };
}

function entryOf(result: DeployResult): JournalEntry {
  const { commandId, attempt } = result;
  return {
    $typeName: "bowline.agent.v1.JournalEntry",
    commandId,
    attempt,
    deploymentId: "",
    generation: 0,
    phase: "RUNNING",
  };
}
