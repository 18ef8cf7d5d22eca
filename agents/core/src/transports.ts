/**
 * How the next session is carried: by a stream where one passes, else by
 * polling.
 *
 * T1: polling is tried where a stream was broken twice in a row, in a way that
 *     no server says: the path speaks no HTTP/2, or nothing comes through.
 * T2: where polling does not open either, both are tried by turns: it was not
 *     the streaming.
 * T3: a session that polls is left for a stream only after one has passed
 *     (probe.ts); where it breaks all the same, T1 counts anew.
 */
import type { TransportSetting } from "./config.ts";
import type { SessionEnd } from "./serve.ts";

export type TransportKind = "stream" | "poll";

export interface TransportChoice {
  /** Of the next session. */
  next(): TransportKind;
  /** How a session ended that was carried like this. */
  ended(kind: TransportKind, end: SessionEnd): void;
}

/** Once may be a server that restarts in between. */
const brokenTimes = 2;

export function chooseTransport(setting: TransportSetting): TransportChoice {
  let next: TransportKind = setting === "poll" ? "poll" : "stream";
  let broken = 0;
  return {
    next: () => next,
    ended(kind, end) {
      if (setting !== "auto") return;
      if (end.kind === "streams-pass") {
        broken = 0;
        next = "stream";
      } else if (kind === "stream") {
        broken = end.kind === "lost" && !end.greeted && broke.has(end.reason) ? broken + 1 : 0; // T1
        if (broken >= brokenTimes) next = "poll";
      } else if (end.kind === "lost" && !end.greeted) {
        broken = brokenTimes - 1; // T2
        next = "stream";
      }
    },
  };
}

/**
 * What a stream ends with before its greeting was answered, where something
 * between is the cause: nothing of the server's, or a bare code of Connect's,
 * which what stands between makes up.
 */
const broke: ReadonlySet<string> = new Set<string>([
  "HTTP2_UNAVAILABLE",
  "SILENT", // accepted, and never answered
  "STALLED",
  "PEER-CLOSED",
  "PROTOCOL_VIOLATION", // the call came to the server, and its messages did not
  ...["ABORTED", "CANCELED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"],
]);
