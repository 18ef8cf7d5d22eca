/** Every bound of REST, with the reason for its number. */
export type RestLimits = typeof restLimits;

export const restLimits = {
  /** The largest manifest (1000 routes) is about 300 KiB. */
  maxBodyBytes: 1024 * 1024,
  /** Time for a body to arrive: 1 MiB at 20 KiB/s. Ends a slow-loris client also in HTTP/2. */
  bodyWithinMs: 60_000,
  /** How long the rest of a refused body is read, so that its sender comes to read the answer. */
  discardWithinMs: 5_000,
  /** Time for a handler: longer than any transaction may take, shorter than the patience of proxies (60 s is usual). */
  answerWithinMs: 55_000,
  /** Depth of nested JSON; the deepest message of the contract needs 8. */
  maxJsonDepth: 64,
  /** Query parameters, repeated ones counted each: lists filter by at most a few dozen values. */
  maxQueryParameters: 128,
  /** Wrong fields that one answer names; more help nobody. */
  maxViolations: 16,
  /** Open watches through REST per replica; each costs a socket, a handler and a few KiB. */
  maxStreams: 1_000,
  /** A quiet stream says something this often: below the 60 s after which proxies close it. */
  heartbeatMs: 15_000,
  /** How long a stream may have nothing to say before its head is sent; until then a failure has a status of its own. */
  streamHeadWithinMs: 1_000,
  /** A reader that takes nothing for this long is gone. */
  stalledWithinMs: 60_000,
};
