/**
 * Opens sessions, in the database, in sets: a fleet that comes back at once
 * shares commits. An agent that dials alone waits for nobody (platform/batches.ts).
 *
 * E1: one row per agent. An opening takes the row first, adds 1 to the epoch,
 *     and unbinds what was bound to the epoch before.
 * E8: the key that signed the assertion is still the agent's under its lock:
 *     between the two an operator or the agent may have replaced it.
 * G1: who is refused costs nobody else of the set anything: a refusal is an
 *     answer, not an error.
 * G2: a set waits for nobody's row. An agent whose row is held by somebody is
 *     opened by itself, beside the sets.
 * G3: a set has an agent once; its next dial is of the next set.
 */
import { isProblem, newId, type Problem, problem } from "@bowline/kernel";
import { bindCertificate, certificateProblemBy } from "../agents/index.ts";
import { type EnginePorts, sessionsEnded } from "../commands/index.ts";
import { isDatabaseAway } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { createBatcher } from "../platform/batches.ts";
import { comeBack, type Conflict, conflictProblem, enterConflict } from "./conflict.ts";
import { enterDecision } from "./disputes.ts";
import { noteAgents, type OpenedSession, protocolVersion } from "./open.ts";
import {
  type AgentRow,
  lockRows,
  type Opening,
  type OpeningFacts,
  type SessionRow,
  writeAgents,
  writeSessions,
} from "./opening-rows.ts";

export interface Openings {
  /**
   * Opens a session for an agent whose assertion was verified. Throws
   * AGENT_REVOKED, AGENT_RETIRED, AGENT_CONFLICT, AGENT_KEY_REPLACED,
   * ASSERTION_REPLAYED (with the floor), PROTOCOL_UNSUPPORTED. An agent that
   * awaits a decision may connect: H1 keeps commands from it.
   */
  open(facts: OpeningFacts): Promise<OpenedSession>;
}

type Answer = OpenedSession | Problem | "busy";

/** Openings in work are bounded before (dials.ts); this only says so to a caller that is not. */
const maxWaiting = 1_024;
/** An agent opens far fewer sessions in its life; above it is room for an integer of the database to grow. */
const largestEpoch = 2_000_000_000;

export function createOpenings(engine: () => EnginePorts): Openings {
  const sets = createBatcher<OpeningFacts, Answer>((facts) => openSet(engine(), facts, false), {
    maxWaiting,
    overloaded: () => problem("OVERLOADED", "Too many agents dial at this moment.", { retryAfterMs: 1_000 }),
    everybodys: (error) => isDatabaseAway(error) || isProblem(error, "COMMIT_UNKNOWN"),
  });
  return {
    async open(facts) {
      if (facts.greeting.protocolMin > protocolVersion || facts.greeting.protocolMax < protocolVersion) {
        const { protocolMin, protocolMax } = facts.greeting;
        const what = `This server speaks protocol ${protocolVersion}; the agent ${protocolMin} to ${protocolMax}.`;
        throw problem("PROTOCOL_UNSUPPORTED", what);
      }
      let answer = await sets.add(facts);
      if (answer === "busy") [answer = "busy"] = await openSet(engine(), [facts], true); // G2
      if (answer === "busy") throw new Error("a set that waits answers everybody");
      if ("sessionId" in answer) return answer;
      throw answer;
    },
  };
}

/** Answers each of them, in order. `waits`: also for rows that are held; else those are "busy" (G2). */
async function openSet(ports: EnginePorts, set: readonly OpeningFacts[], waits: boolean): Promise<Answer[]> {
  const once = new Map(set.map((facts) => [facts.agentId, facts])); // G3
  if (once.size < set.length) return openTwice(ports, set);
  return transact(ports.db, async (work) => {
    const answers = new Map<string, Answer>();
    const openings: Opening[] = [];
    const rows = await lockRows(work, [...once.keys()], waits);
    for (const facts of set) {
      const row = rows.get(facts.agentId);
      if (row === undefined) answers.set(facts.agentId, unknown());
      else if (row === "busy") answers.set(facts.agentId, "busy");
      else {
        const why = refusal(facts, row.agent, row.before);
        if (why === undefined) openings.push({ facts, ...row });
        else answers.set(facts.agentId, why);
      }
    }
    for (const { facts, agent } of openings)
      if (agent.certificate === "") await bindCertificate(work.tx, facts.agentId, facts.clientCertificate);
    const fine = await withoutConflicts(ports, work, openings, answers);
    for (const opened of await write(ports, work, fine)) answers.set(opened.agentId, opened.session);
    return set.map(({ agentId }) => answers.get(agentId) ?? unknown());
  });
}

/** G3: the first dial of each agent, and then the others. */
async function openTwice(ports: EnginePorts, set: readonly OpeningFacts[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (let rest = [...set.entries()]; rest.length > 0;) {
    const first = new Map(rest.toReversed().map((entry) => [entry[1].agentId, entry]));
    const some = [...first.values()];
    const got = await openSet(
      ports,
      some.map(([, facts]) => facts),
      false,
    );
    for (const [at, [index]] of some.entries()) answers[index] = got[at] ?? unknown();
    rest = rest.filter((entry) => first.get(entry[1].agentId) !== entry);
  }
  return answers;
}

const unknown = (): Problem => problem("ASSERTION_INVALID", "This server does not know the agent.");

/** Why this dial opens nothing; undefined: its rows have nothing against it. */
function refusal(facts: OpeningFacts, agent: AgentRow, before: SessionRow | undefined): Problem | undefined {
  if (agent.state === "REVOKED") return problem("AGENT_REVOKED");
  if (agent.state === "RETIRED") return problem("AGENT_RETIRED");
  if (agent.thumbprint !== facts.thumbprint)
    return problem("AGENT_KEY_REPLACED", "The agent's key was replaced while this one dialled."); // E8
  if (agent.state === "CONFLICT") return conflictProblem(agent.conflict);
  if (before !== undefined && facts.counter <= before.counter)
    return problem("ASSERTION_REPLAYED", undefined, { metadata: { floor: String(before.counter) } });
  const { highestEpoch } = facts.greeting;
  if (highestEpoch > largestEpoch) {
    const what = `The agent's highest epoch, ${highestEpoch}, is none that a server gave.`;
    return problem("PROTOCOL_VIOLATION", what);
  }
  return certificateProblemBy(agent.policy, agent.certificate, facts.clientCertificate);
}

/** Puts those into CONFLICT that are in one, answers them, and returns the others. */
async function withoutConflicts(
  ports: EnginePorts,
  work: Work,
  openings: readonly Opening[],
  answers: Map<string, Answer>,
): Promise<Opening[]> {
  const same = openings.filter(({ facts, agent }) => facts.greeting.runtimeIdentity === agent.runtimeIdentity);
  const back = await comeBack(
    work,
    same.map(({ facts, before }) => {
      const { agentId, greeting } = facts;
      return { agentId, from: before?.processId ?? "", to: greeting.processId };
    }),
  );
  const inConflict = openings.filter((one) => !same.includes(one) || back.has(one.facts.agentId));
  for (const { facts, agent } of inConflict) {
    const { agentId, greeting } = facts;
    const { runtimeIdentity } = greeting;
    const why: Conflict = back.has(agentId) ? "TWO_PROCESSES" : "OTHER_RUNTIME";
    await enterConflict(ports, work, agentId, { ...facts, why, runtimeIdentity });
    await noteAgents(ports, work, [{ agentId, clusterId: agent.clusterId }]);
    answers.set(agentId, conflictProblem(why)); // what was found out stays
  }
  return openings.filter((one) => !inConflict.includes(one));
}

/** Writes what was decided, and ends what was open (E1). */
async function write(
  ports: EnginePorts,
  work: Work,
  openings: readonly Opening[],
): Promise<{ agentId: string; session: OpenedSession }[]> {
  if (openings.length === 0) return [];
  const { incarnation } = await work.tx.selectFrom("installation").select("incarnation").executeTakeFirstOrThrow();
  for (const { facts, agent } of openings)
    if (facts.greeting.incarnation > incarnation && agent.state === "ENROLLED")
      await enterDecision(ports, work, facts.agentId, "INCARNATION_AHEAD");
  const opened = openings.map(({ facts: { agentId, greeting }, agent, before }) => ({
    agentId,
    session: {
      sessionId: newId("session"),
      epoch: Math.max(before?.epoch ?? 0, greeting.highestEpoch) + 1, // H2: above what another history gave it, too
      clusterId: agent.clusterId,
      incarnation,
      journalWhole: greeting.journalId === agent.journalId && greeting.journalCounter >= agent.journalCounter,
      tellsAll: greeting.stateDigest !== "",
    },
  }));
  await writeSessions(work, openings, opened);
  const displaced = openings.flatMap(({ facts, before }) =>
    before === undefined || before.state === "ENDED" ? [] : [{ ...facts, before }],
  );
  await sessionsEnded(
    ports,
    work,
    displaced.map(({ agentId, before }) => ({ agentId, epoch: before.epoch })),
  );
  for (const { agentId, replicaId, before } of displaced) {
    // Here the newer stream takes the older one's place by itself (live.ts).
    if (before.replicaId !== replicaId) work.after(() => ports.signals.close(agentId, "SUPERSEDED", before.replicaId));
  }
  await writeAgents(work, openings);
  await noteAgents(
    ports,
    work,
    opened.map(({ agentId, session: { clusterId } }) => ({ agentId, clusterId })),
  );
  return opened;
}
