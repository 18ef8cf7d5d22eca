/** Every bound of the port, with the reason for its number. */
export type PortLimits = typeof portLimits;

export const portLimits = {
  /** For the first byte that tells the protocol, after TLS where that is spoken. A client on a bad network needs a second or two. */
  decideWithinMs: 10_000,
  /** For a whole HTTP/1.1 header block; ends a slow-loris client. Twice what a retransmitted packet takes. */
  headersWithinMs: 15_000,
  /** For a whole HTTP/1.1 request with its body: 1 MiB at 20 KiB/s. Responses, also endless ones, are not limited. */
  requestWithinMs: 60_000,
  /** An HTTP/1.1 connection without a request; above the usual 60 s of proxies, so that they close first. */
  idleHttp1Ms: 75_000,
  /** An HTTP/2 session without a stream. Clients open another within one round trip. */
  idleHttp2Ms: 300_000,
  /** Below the 60 s after which NATs and proxies forget a quiet connection. */
  pingEveryMs: 20_000,
  /** A peer that answers no ping this long is gone; generous for a busy machine. */
  pingWithinMs: 15_000,
  /** Above the fleet that one replica serves; each costs a file descriptor and about 20 KiB. */
  maxConnections: 20_000,
  /** Connections that have not shown their protocol; the oldest goes when another comes. */
  maxUndecided: 1_000,
  /** Header block of either protocol: Node's default, enough for large tokens and traces. */
  maxHeaderBytes: 16 * 1024,
  /** Header fields of one HTTP/2 request; browsers send about 20. In HTTP/1.1 the bytes bound them. */
  maxHeaders: 100,
  /** Streams of one HTTP/2 session: an agent uses a few, the console and proxies some dozen. */
  maxStreams: 256,
  /** Memory of one HTTP/2 session, MB: several of the largest answers (4 MiB) at once. */
  maxSessionMegabytes: 32,
};
