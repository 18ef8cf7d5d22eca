/**
 * How many calls are answered: per principal, per remote address, and per
 * address for credentials that nobody has. Counted in memory, by each replica.
 *
 * L1: whether an address has calls left is asked before its credential is
 *     looked at, so that what is refused costs no query.
 * L2: agents' streams and calls are not counted: many agents share the address
 *     of one NAT. What limits them is dials (sessions/).
 * L3: guessing at the API and guessing registration tokens are counted apart,
 *     so that agents with a wrong token shut no person of their network out.
 */
import { isIPv4, isIPv6 } from "node:net";
import { isProblem, problem, type Problem } from "@bowline/kernel";
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";

/** What was exceeded; a label of the metric and `metadata.limit` of the error. */
export type ExceededLimit = "principal" | "address" | "credentials";

export interface RateLimitSettings {
  /** Calls per minute and principal. 0: any number. */
  principal: number;
  /** Calls per minute and remote address. 0: any number, of wrong credentials too. */
  address: number;
  /** Is told of each call that is refused. */
  refused(limit: ExceededLimit): void;
}

export interface RateLimits {
  /** Counts a call of this address. Throws RATE_LIMITED. */
  address(remoteAddress: string): Promise<void>;
  /** Counts a call of this principal. Throws RATE_LIMITED. */
  principal(id: string): Promise<void>;
  /** Runs what looks at a credential, and counts it where nobody has that. Throws RATE_LIMITED instead where too many were wrong. */
  guessing<T>(what: "api" | "enrolment", remoteAddress: string, look: () => Promise<T>): Promise<T>;
}

/** The window in which calls are counted. A key is kept for as long, so memory is bounded by the calls of a minute. */
const windowSeconds = 60;
/**
 * Wrong credentials per minute and address: many more than a script with a
 * forgotten token sends before somebody looks, and nothing for who guesses.
 */
export const wrongCredentialsPerMinute = 120;

const noLimits: RateLimits = {
  address: async () => undefined,
  principal: async () => undefined,
  guessing: (_, __, look) => look(),
};

export function createRateLimits(settings: RateLimitSettings | undefined): RateLimits {
  if (settings === undefined) return noLimits;
  const counter = (points: number) =>
    points === 0 ? undefined : new RateLimiterMemory({ points, duration: windowSeconds });
  const principals = counter(settings.principal);
  const addresses = counter(settings.address);
  const guesses = settings.address === 0 ? undefined : counter(wrongCredentialsPerMinute);

  const exceeded = (limit: ExceededLimit, perMinute: number, waitMs: number): Problem => {
    settings.refused(limit);
    const what = { principal: "calls per token", address: "calls per address", credentials: "wrong credentials" }[
      limit
    ];
    return problem("RATE_LIMITED", `At most ${perMinute} ${what} are answered in a minute; wait as long as told.`, {
      retryAfterMs: Math.max(1, waitMs),
      metadata: { limit, perMinute: String(perMinute) },
    });
  };
  const count = async (limiter: RateLimiterMemory | undefined, limit: ExceededLimit, key: string): Promise<void> => {
    if (limiter === undefined || key === "") return;
    try {
      await limiter.consume(key);
    } catch (error) {
      if (error instanceof RateLimiterRes) throw exceeded(limit, limiter.points, error.msBeforeNext);
      throw error;
    }
  };
  return {
    address: (remoteAddress) => count(addresses, "address", networkOf(remoteAddress)), // L1
    principal: (id) => count(principals, "principal", id),
    async guessing(what, remoteAddress, look) {
      const network = networkOf(remoteAddress);
      if (guesses === undefined || network === "") return look();
      const key = `${what} ${network}`; // L3
      const before = await guesses.get(key);
      if (before !== null && before.consumedPoints >= guesses.points) {
        throw exceeded("credentials", guesses.points, before.msBeforeNext);
      }
      try {
        return await look();
      } catch (error) {
        if (isGuess(error)) await guesses.penalty(key);
        throw error;
      }
    },
  };
}

/** Whoever has an expired token has had the secret. */
function isGuess(error: unknown): boolean {
  return isProblem(error) && error.code === "unauthenticated" && error.reason !== "TOKEN_EXPIRED";
}

/** What one household or machine has: an IPv4 address, or the first 64 bits of an IPv6 one. Empty: not known. */
export function networkOf(remoteAddress: string): string {
  const address = remoteAddress.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
  if (isIPv4(address) || !isIPv6(address)) return address;
  const [head = "", tail] = address.toLowerCase().split("::", 2);
  const first = head === "" ? [] : head.split(":");
  const last = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = Array.from({ length: Math.max(0, 8 - first.length - last.length) }, () => "0");
  const groups = tail === undefined ? first : [...first, ...zeros, ...last];
  return groups
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ""))
    .join(":");
}
