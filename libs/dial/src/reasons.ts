/**
 * Why a server was not reached. Nothing of it is an answer of the API: that was
 * never asked. Documented in docs/errors.md, which is made of this.
 *
 * P1: a reason never changes its name once it is released.
 */

/** Every reason and what it means to whoever looks it up. */
export const dialReasons = {
  DNS_FAILED: "The host's name cannot be looked up.",
  TCP_REFUSED: "Nothing listens on the port of that address.",
  TCP_UNREACHABLE: "No answer from the address in time, or no way to it.",
  PROXY_REFUSED: "The HTTP proxy does not open a tunnel to the server.",
  TLS_NOT_SPOKEN: "What answers speaks no TLS; the URL may have to begin with http://.",
  TLS_WRONG_NAME: "The certificate is for another name; something between may open TLS.",
  TLS_UNTRUSTED: "The certificate is of an authority that is not trusted here.",
  TLS_EXPIRED: "The certificate is not valid at this time by this machine's clock.",
  TLS_FAILED: "The TLS handshake failed otherwise.",
  CA_FINGERPRINT_MISMATCH: "No certificate of the server's chain has the fingerprint that was given.",
  HTTP2_UNAVAILABLE: "The way to the server, or what answers there, speaks no HTTP/2.",
} as const satisfies Record<string, string>;

/** What a caller switches on. */
export type DialReason = keyof typeof dialReasons;

/** The steps, in the order in which they are taken. */
export const dialSteps = ["dns", "tcp", "proxy", "tls", "http2"] as const;
export type DialStep = (typeof dialSteps)[number];

/** A dial that ended at one of its steps. */
export class DialError extends Error {
  override readonly name = "DialError";
  readonly step: DialStep;
  readonly reason: DialReason;
  /** What to do, as a sentence for people; empty where the message says it all. */
  readonly remedy: string;

  /** `message` says what happened and where; never a credential. */
  constructor(step: DialStep, reason: DialReason, message: string, details: { remedy?: string; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.step = step;
    this.reason = reason;
    this.remedy = details.remedy ?? "";
  }
}

/** The DialError that `error` is or was caused by; undefined: the server was reached. */
export function dialErrorOf(error: unknown): DialError | undefined {
  /** No chain of ours is longer; a circle must end. */
  const maxDepth = 8;
  let found: unknown = error;
  for (let depth = 0; depth < maxDepth && found instanceof Error; depth += 1) {
    if (found instanceof DialError) return found;
    found = found.cause;
  }
  return undefined;
}
