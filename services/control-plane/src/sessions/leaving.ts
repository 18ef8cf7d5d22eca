/**
 * Sessions that move: before the replica goes away, and after their life, so
 * that load spreads over the replicas again.
 *
 * L1: an agent that is asked to leave is served until it does.
 * L2: the ends are recorded before the lease is given back: nobody takes these
 *     sessions for lost ones.
 */
import type { Clock } from "@bowline/kernel";
import type { LiveSession, LiveSessions } from "./live.ts";

/** What a fleet may put on the other replicas when this one goes: each agent is one dial. */
const movesPerSecond = 200;
/** Of the spread: how long load balancers get at least to see that this replica is not ready. */
const noticedWithin = 1 / 6;
/** For the last agent's Goodbye after the spread. */
const lastGoodbyeMs = 2_000;
/** For recording the ends; a database that is away must not keep the replica from going. */
const recordWithinMs = 2_000;
const lookEveryMs = 50;

/** Within what time agents are to connect elsewhere. 0: at once, because there is nowhere else, or nothing to spread. */
export function drainSpreadMs(facts: { others: number; sessions: number; leastMs: number }): number {
  if (facts.others === 0 || facts.leastMs === 0) return 0;
  return Math.max(facts.leastMs, Math.ceil((facts.sessions / movesPerSecond) * 1_000));
}

/** Empties this replica; `recorded` resolves when no end waits for the database. Resolves when no session is left, or the spread has passed; at once after `hurry` aborts. Never throws. */
export async function drain(
  { live, clock, recorded }: { live: LiveSessions; clock: Clock; recorded: () => Promise<unknown> },
  spreadMs: number,
  hurry: AbortSignal,
): Promise<void> {
  const from = clock.monotonicMs();
  const passed = (): number => clock.monotonicMs() - from;
  if (spreadMs > 0) {
    for (const session of live.all()) session.leave("REPLICA_DRAINING", spreadMs);
    while (!hurry.aborted && passed() < spreadMs + lastGoodbyeMs) {
      if (live.count() === 0 && passed() >= spreadMs * noticedWithin) break;
      await clock.sleep(lookEveryMs, hurry);
    }
  }
  for (const session of live.all())
    session.close("REPLICA_DRAINING", { message: { case: "drain", value: { spreadMs: 0 } } });
  const closedAt = clock.monotonicMs();
  while (live.count() > 0 && clock.monotonicMs() - closedAt < recordWithinMs) await clock.sleep(lookEveryMs);
  const enough = new AbortController();
  await Promise.race([recorded(), clock.sleep(recordWithinMs, enough.signal)]); // L2
  enough.abort();
}

/** Each session's life varies by this share, so that those of one moment don't move together. */
const lifeJitter = 0.1;
/** An agent that was asked to move and doesn't is closed after this long; its next session is as good. */
const moveWithinMs = 30_000;
const turnMs = 1_000;

/** Asks sessions to move after their life, until `signal` aborts. */
export async function moveOldSessions(
  { live, clock, random = Math.random }: { live: LiveSessions; clock: Clock; random?: () => number },
  lifeMs: number,
  signal: AbortSignal,
): Promise<void> {
  const due = new WeakMap<LiveSession, { leaveAt: number; asked: boolean }>();
  while (!signal.aborted) {
    await clock.sleep(Math.min(turnMs, lifeMs * lifeJitter), signal);
    if (signal.aborted) return;
    const now = clock.monotonicMs();
    for (const session of live.all()) {
      const known = due.get(session);
      const life = known ?? {
        leaveAt: session.openedAt + lifeMs * (1 + lifeJitter * (2 * random() - 1)),
        asked: false,
      };
      if (known === undefined) due.set(session, life);
      if (now < life.leaveAt) continue;
      if (!life.asked) {
        life.asked = true;
        session.leave("SESSION_MOVED", 0);
      } else if (now >= life.leaveAt + moveWithinMs) session.close("SESSION_MOVED");
    }
  }
}
