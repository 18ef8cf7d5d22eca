/**
 * HTTP/2 sessions of the port: finds dead ones by pings, ends idle ones, and
 * lets all of them go when the port closes. Node sends no pings by itself.
 *
 * S1: time in which this process stood still is nobody's: what peers sent
 *     meanwhile is not read yet when it goes on.
 */
import type { Http2Server, ServerHttp2Session } from "node:http2";
import type { PortLimits } from "./port-limits.ts";

type Kept = { streams: number; quietSince: number; nextPingAt: number; pingSentAt: number | undefined };

/** Watches every session that `server` gets. */
export function keepSessions(
  server: Http2Server,
  limits: Pick<PortLimits, "pingEveryMs" | "pingWithinMs" | "idleHttp2Ms">,
  log: { debug(fields: object, message: string): void },
): {
  /** Sends GOAWAY: no new streams; each session ends with its last one. */
  drain(): void;
  /** Ends the watching; sessions stay as they are. */
  stop(): void;
} {
  const kept = new Map<ServerHttp2Session, Kept>();
  /** Time of the looks below (S1): what lies between two of them counts as two at most. */
  let now = 0;
  let lookedAt = performance.now();
  server.on("session", (session) => {
    // Each has its own times: pings to all at once would hold up everything else.
    const state: Kept = { streams: 0, quietSince: now, nextPingAt: now + limits.pingEveryMs, pingSentAt: undefined };
    kept.set(session, state);
    session.on("stream", (stream) => {
      state.streams += 1;
      stream.once("close", () => {
        state.streams -= 1;
        state.quietSince = now;
      });
    });
    session.once("close", () => kept.delete(session));
  });
  server.on("sessionError", (error) => log.debug({ err: error }, "an HTTP/2 session failed"));

  // One timer for all, often enough that what is due is done within a tenth of its time.
  const lookEveryMs = Math.max(1, Math.min(limits.pingEveryMs, limits.pingWithinMs) / 10);
  const timer = setInterval(() => {
    const before = lookedAt;
    lookedAt = performance.now();
    now += Math.min(lookedAt - before, 2 * lookEveryMs);
    for (const [session, state] of kept) look(session, state);
  }, lookEveryMs);
  timer.unref();

  function look(session: ServerHttp2Session, state: Kept): void {
    if (state.pingSentAt !== undefined) {
      if (now - state.pingSentAt < limits.pingWithinMs) return;
      log.debug({ remoteAddress: session.socket?.remoteAddress }, "an HTTP/2 peer answers no ping");
      session.destroy();
      return;
    }
    if (state.streams === 0 && now - state.quietSince >= limits.idleHttp2Ms) return session.close();
    if (now < state.nextPingAt || session.destroyed) return;
    state.nextPingAt = now + limits.pingEveryMs;
    const sent = session.ping((error) => {
      if (error === null) state.pingSentAt = undefined;
    });
    if (sent) state.pingSentAt = now;
  }

  return {
    drain() {
      for (const session of kept.keys()) session.close();
    },
    stop() {
      clearInterval(timer);
    },
  };
}
