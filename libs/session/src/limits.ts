/** Sizes and times of the stream that both ends keep to. */

/** One message of the stream. Small, so that none of them delays a heartbeat noticeably; pages keep below it. */
export const maxStreamMessageBytes = 64 * 1024;

/** One message of a unary call: a page of specs, each of which has files of at most 1 MiB. */
export const maxUnaryMessageBytes = 4 * 1024 * 1024;

/** Messages that wait to be sent. Above a whole window's worth of everything; more means the peer cannot follow. */
export const maxQueuedMessages = 1024;

/** A peer that takes nothing for this long is closed: a live one reads within a round trip. */
export const stallLimitMs = 10_000;

/** Time between heartbeats, unless the server says otherwise: below the idle timers of common proxies (30–60 s). */
export const heartbeatIntervalMs = 15_000;

/** After this much silence either side closes, unless the server says otherwise: three heartbeats. */
export const silenceLimitMs = 45_000;
