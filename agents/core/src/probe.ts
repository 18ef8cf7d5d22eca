/** While a session polls: whether a stream passes again. Looked at seldom, and further apart where none does. */
import type { Clock } from "@bowline/kernel";
import type { PollTransport } from "@bowline/session";

/** The first look is early: what broke the stream may have been a restart of something between. */
const firstAfterMs = 30_000;
/** Looks vary by this share, so that a fleet's don't come together. */
const jitter = 0.2;

/**
 * Resolves with true when a stream has passed; false: `signal` aborted. Looks
 * after 30 s, then after twice as long each time, at most `everyMs` apart; all
 * of it `later` times as late (T3 of transports.ts).
 */
export async function untilStreamPasses(
  transport: PollTransport,
  ports: { token: () => string; everyMs: number; later: number; clock: Clock; random?: () => number },
  signal: AbortSignal,
): Promise<boolean> {
  const { clock, everyMs, later, random = Math.random } = ports;
  for (let waitMs = Math.min(firstAfterMs, everyMs); !signal.aborted; waitMs = Math.min(waitMs * 2, everyMs)) {
    await clock.sleep(waitMs * later * (1 + jitter * (2 * random() - 1)), signal);
    if (signal.aborted) return false;
    if (await transport.streamPasses(ports.token(), signal)) return true;
  }
  return false;
}
