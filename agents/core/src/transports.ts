/**
 * How the next session is carried: by a stream where one passes, else by
 * polling.
 *
 * T1: polling is tried where a stream was broken in a way that no server says:
 *     twice in a row before its greeting was answered (the path speaks no
 *     HTTP/2, or nothing comes through), or three times soon after.
 * T2: where polling does not open either, both are tried by turns: it was not
 *     the streaming.
 * T3: a session that polls is left for a stream only after one has passed
 *     (probe.ts). Where that stream breaks all the same, the next session
 *     polls, and looks later, up to 16 times: a path that only seems to carry
 *     streams costs a short gap, more and more seldom.
 * T4: an agent that starts again begins as its last session was carried: on a
 *     path that buffers it would be away for two greetings otherwise.
 */
import type { TransportSetting } from "./config.ts";
import type { SessionEnd } from "./serve.ts";

export type TransportKind = "stream" | "poll";

export interface TransportChoice {
  /** Of the next session. */
  next(): TransportKind;
  /** How a session ended that was carried like this. */
  ended(kind: TransportKind, end: SessionEnd, livedMs: number): void;
  /** How many times later than usual a session that polls looks for a stream. */
  lookLater(): number;
}

/** Without an answer: once may be a server that restarts in between. */
const deadTimes = 2;
/** A session that broke soon: a server that restarts twice is not the path's fault. */
const youngTimes = 3;
/** Longer than the silence limit, so that a stream that stands still soon after its greeting is one of them. */
const youngMs = 120_000;
/** With the usual five minutes: once in 80 minutes. */
const latest = 16;

const other = { stream: "poll", poll: "stream" } as const;

/** `polled`: the last session of this agent's life before did. */
export function chooseTransport(setting: TransportSetting, polled = false): TransportChoice {
  let next: TransportKind = setting === "poll" || (setting === "auto" && polled) ? "poll" : "stream";
  /** Sessions of this kind that broke, in a row. */
  let strikes = 0;
  /** The stream that is tried has passed before. */
  let trial = false;
  let later = 1;

  function broke(kind: TransportKind, limit: number): void {
    if (trial) later = Math.min(later * 2, latest); // T3
    strikes = trial ? limit : strikes + 1;
    trial = false;
    if (strikes < limit) return;
    next = other[kind];
    strikes = kind === "poll" ? deadTimes - 1 : 0; // T2
  }

  return {
    next: () => next,
    lookLater: () => later,
    ended(kind, end, livedMs) {
      if (setting !== "auto") return;
      if (end.kind === "streams-pass") {
        next = "stream";
        strikes = 0;
        trial = true;
      } else if (end.kind === "lost" && !end.greeted && (kind === "poll" || ofThePath.has(end.reason))) {
        broke(kind, kind === "poll" ? 1 : deadTimes); // T1, T2
      } else if (end.kind === "lost" && end.greeted && livedMs < youngMs && ofThePath.has(end.reason)) {
        broke(kind, youngTimes);
      } else {
        strikes = 0;
        if (kind === "stream" && livedMs >= youngMs) {
          trial = false;
          later = 1;
        }
      }
    },
  };
}

/**
 * What a session ends with where something between is the cause: nothing of the server's, or a bare code of Connect's,
 * which what stands between makes up.
 */
const ofThePath: ReadonlySet<string> = new Set<string>([
  "HTTP2_UNAVAILABLE",
  "SILENT", // accepted, and never answered
  "STALLED",
  "PEER-CLOSED",
  "PROTOCOL_VIOLATION", // the call came to the server, and its messages did not
  ...["ABORTED", "CANCELED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"],
]);
