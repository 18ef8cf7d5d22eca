/**
 * An agent that keeps itself going, in little memory: it speaks the real
 * protocol over a connection of its own, and what it runs is simulated. It dials,
 * serves, waits and dials again until it is stopped.
 *
 *   session.ts   one session             connection.ts  its connection, gate.ts
 *   work.ts      what it runs            journal.ts     what outlives a session
 *   ports.ts     what all of them share  wheel.ts       time for all of them
 *   enrol.ts     how it came to be       fleet.ts       many of them
 *
 * N1: at most one session is open at any time.
 * N2: between two dials it waits as a real agent does (agents/core/src/connect.ts).
 */
import { ResultAck_Disposition as Ack } from "@bowline/contract/agent";
import type { DialTarget } from "@bowline/dial";
import { type BackoffBounds, fullJitter, newId } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import { type AgentConnection, dialAgent } from "./connection.ts";
import { createJournal } from "./journal.ts";
import type { AgentNotes, AgentWorld } from "./ports.ts";
import { openSession, type Session, type SessionEnd, type SessionFacts } from "./session.ts";
import type { WorkPlan } from "./work.ts";

export interface SimulatedOptions {
  world: AgentWorld;
  notes: AgentNotes;
  target(): DialTarget;
  /** Signs an assertion with a counter above `floor` and above every one before. */
  sign: (floor: number, now: number) => Promise<string>;
  facts: Omit<SessionFacts, "processId">;
  plan: WorkPlan;
  heartbeatMs?: number;
  /** Its first session is on this one. */
  connection?: AgentConnection;
  /** Of waits after a dial that failed or a session that was lost. Default: a real agent's. */
  backoff?: BackoffBounds;
  /** Comes back at once after another process took its place, as none of ours does. */
  stubborn?: boolean;
  /** Its connections can go half-open. */
  gated?: boolean;
}

export interface SimulatedAgent {
  /** The open session, if there is one. */
  session: () => Session | undefined;
  /** Sessions that the server greeted. */
  sessions: () => number;
  /** Its clock goes so far ahead of this machine's from now on. */
  skew(ms: number): void;
  /** Nothing passes its connection any more; it finds out as a real agent does. */
  goHalfOpen(): void;
  /** Says goodbye, or cuts the connection, and dials no more. */
  stop(how: "leave" | "cut"): Promise<void>;
}

/** As agents/core/src/connect.ts. */
const realBackoff: BackoffBounds = { floorMs: 250, baseMs: 1_000, capMs: 60_000 };
const supersededWait: BackoffBounds = { floorMs: 20_000, baseMs: 60_000, capMs: 60_000 };
const decisionWait: BackoffBounds = { floorMs: 10_000, baseMs: 60_000, capMs: 60_000 };
const stableAfterMs = 60_000;
/** After a session's end: goodbyes and results that were said are on their way. */
const lastWordsMs = 500;
const waitsForPeople: ReadonlySet<string> = new Set(["AGENT_CONFLICT", "AWAITING_DECISION", "CLOCK_SKEW"]);
const forGood: ReadonlySet<string> = new Set([
  "AGENT_REVOKED",
  "AGENT_RETIRED",
  "AGENT_KEY_REPLACED",
  "ASSERTION_INVALID",
]);

export function startSimulatedAgent(options: SimulatedOptions): SimulatedAgent {
  const { world, notes, backoff = realBackoff } = options;
  const facts: SessionFacts = { ...options.facts, processId: newId("process") };
  const journal = createJournal((how) => how === Ack.RECORDED || how === Ack.ALREADY_RECORDED || how === Ack.OBSOLETE);
  let given = options.connection;
  let connection: AgentConnection | undefined;
  let session: Session | undefined;
  let sessions = 0;
  let skewMs = 0;
  let dialling: AbortController | undefined;
  let stopped: "leave" | "cut" | undefined;
  let wake: (() => void) | undefined;
  const now = (): number => Date.now() + skewMs;

  async function serve(floor: number): Promise<SessionEnd> {
    notes.phase("dialling");
    const assertion = await options.sign(floor, now());
    const dialled = given ?? (await dial());
    given = undefined;
    connection = dialled;
    const { plan, heartbeatMs } = options;
    try {
      if (stopped !== undefined) return { kind: "left" };
      notes.phase("greeting");
      session = openSession({ world, notes, connection: dialled, journal, facts, now, plan, heartbeatMs }, assertion);
      const end = await session.ended;
      if (session.greeting !== undefined) sessions += 1;
      return end;
    } finally {
      session = undefined;
      world.wheel.after(lastWordsMs, () => dialled.cut()); // N1: the stream has ended; its last words go out
    }
  }

  function dial(): Promise<AgentConnection> {
    dialling = new AbortController();
    const { signal } = dialling;
    return dialAgent(options.target(), options.gated === true ? { signal, kept: world.halfOpen } : { signal });
  }

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      notes.phase("waiting");
      wake = resolve;
      world.wheel.after(ms, resolve);
    });

  const running = (async (): Promise<void> => {
    let attempt = 0;
    let floor = 0;
    while (stopped === undefined) {
      const since = performance.now();
      const end = await serve(floor).catch((error: unknown): SessionEnd => {
        const { reason, retryAfterMs = 0 } = refusalOf(error);
        return { kind: "lost", reason, retryAfterMs, greeted: false };
      });
      if (stopped !== undefined) break;
      if (performance.now() - since >= stableAfterMs) attempt = 0;
      if (end.kind === "replayed") floor = Math.max(floor, end.floor);
      if (end.kind === "superseded") notes.trouble("SUPERSEDED");
      if (end.kind === "lost" && end.reason !== "CLOSED") notes.trouble(end.reason);
      if (end.kind === "lost" && forGood.has(end.reason)) break;
      await pause(waitAfter(end, attempt)); // N2
      attempt = end.kind === "left" ? 0 : attempt + 1;
    }
    notes.phase("stopped");
  })();

  function waitAfter(end: SessionEnd, attempt: number): number {
    if (end.kind === "left") return backoff.floorMs;
    if (end.kind === "superseded" && options.stubborn !== true)
      return fullJitter(supersededWait, attempt, world.random);
    if (end.kind !== "lost") return fullJitter(backoff, attempt, world.random);
    const bounds = waitsForPeople.has(end.reason) ? decisionWait : backoff;
    return Math.max(end.retryAfterMs ?? 0, fullJitter(bounds, attempt, world.random));
  }

  return {
    session: () => (session?.greeting === undefined ? undefined : session),
    sessions: () => sessions + (session?.greeting === undefined ? 0 : 1),
    skew: (ms) => void (skewMs = ms),
    goHalfOpen: () => connection?.goHalfOpen(),
    async stop(how) {
      stopped = how;
      wake?.();
      dialling?.abort();
      if (how === "leave") session?.leave("the simulated agent stops");
      else session?.drop();
      await running;
      if (how === "leave") await world.wheel.sleep(lastWordsMs);
      connection?.cut();
    },
  };
}
