/**
 * HTTP/2 sessions of the port: finds dead ones by pings, ends idle ones, and
 * lets all of them go when the port closes. Node sends no pings by itself.
 */
import type { Http2Server, ServerHttp2Session } from "node:http2";
import type { PortLimits } from "./port-limits.ts";

type Kept = { streams: number; quietSince: number; pingSentAt: number | undefined };

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
  server.on("session", (session) => {
    const state: Kept = { streams: 0, quietSince: performance.now(), pingSentAt: undefined };
    kept.set(session, state);
    session.on("stream", (stream) => {
      state.streams += 1;
      stream.once("close", () => {
        state.streams -= 1;
        state.quietSince = performance.now();
      });
    });
    session.once("close", () => kept.delete(session));
  });
  server.on("sessionError", (error) => log.debug({ err: error }, "an HTTP/2 session failed"));

  // One timer for all: looks often enough that a late pong is noticed within half its limit.
  const lookEveryMs = Math.max(1, Math.min(limits.pingEveryMs, limits.pingWithinMs) / 2);
  let nextPingAt = performance.now() + limits.pingEveryMs;
  const timer = setInterval(() => {
    const now = performance.now();
    const pingNow = now >= nextPingAt;
    if (pingNow) nextPingAt = now + limits.pingEveryMs;
    for (const [session, state] of kept) look(session, state, now, pingNow);
  }, lookEveryMs);
  timer.unref();

  function look(session: ServerHttp2Session, state: Kept, now: number, pingNow: boolean): void {
    if (state.pingSentAt !== undefined) {
      if (now - state.pingSentAt < limits.pingWithinMs) return;
      log.debug({ remoteAddress: session.socket?.remoteAddress }, "an HTTP/2 peer answers no ping");
      session.destroy();
      return;
    }
    if (state.streams === 0 && now - state.quietSince >= limits.idleHttp2Ms) return session.close();
    if (!pingNow || session.destroyed) return;
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
