/**
 * Who may scrape `/metrics`: whoever is on this machine, and whoever has an API
 * token that may read the installation. It names no tenant (M1 in metrics.ts),
 * but how many agents and commands there are is nobody else's business.
 *
 * A proxy on this machine connects from loopback for anybody. Not every proxy
 * says that it forwards, so a call counts as one of this machine only if it was
 * also made to a name of this machine: what people elsewhere dial is another.
 * What remains is a proxy that hides both; docs/operations/proxies.md has
 * settings for which neither is hidden.
 */
import { isIPv4 } from "node:net";
import { problem } from "@bowline/kernel";
import type { Principal } from "./context.ts";
import type { RateLimits } from "./rate-limits.ts";

export interface ScrapePorts {
  /** True: everybody may; something in front decides. */
  open: boolean;
  authenticate(headers: Pick<Headers, "get">): Promise<Principal | undefined>;
  limits: Pick<RateLimits, "guessing">;
}

export interface Scrape {
  headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Of the connection. */
  remoteAddress: string;
}

/** A proxy on this machine says with one of these that it speaks for somebody else. */
const forwarding = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/** Throws UNAUTHENTICATED, TOKEN_EXPIRED, PERMISSION_DENIED or RATE_LIMITED. */
export async function admitScrape(ports: ScrapePorts, { headers, remoteAddress }: Scrape): Promise<void> {
  if (ports.open) return;
  const { authorization } = headers;
  if (authorization === undefined || Array.isArray(authorization)) {
    const forwarded = forwarding.some((name) => headers[name] !== undefined);
    if (isLoopback(remoteAddress) && isLoopbackName(headers[":authority"] ?? headers["host"]) && !forwarded) return;
    throw problem(
      "UNAUTHENTICATED",
      "Only http://localhost/metrics, on the server's machine, is open; else `Authorization: Bearer <API token>` of a viewer, operator or admin is needed.",
    );
  }
  const principal = await ports.limits.guessing("api", remoteAddress, () =>
    ports.authenticate(new Headers({ authorization })),
  );
  if (principal !== undefined && ["viewer", "operator", "admin"].includes(principal.role)) return;
  throw problem("PERMISSION_DENIED", "The metrics need one of the roles viewer, operator, admin.");
}

function isLoopback(remoteAddress: string): boolean {
  const address = remoteAddress.replace(/^::ffff:/i, "");
  return address === "::1" || (isIPv4(address) && address.startsWith("127."));
}

/** Of `Host` or `:authority`, with or without a port. */
function isLoopbackName(host: string | string[] | undefined): boolean {
  if (typeof host !== "string") return false;
  const name = host.replace(/:[0-9]*$/, "").toLowerCase();
  return name === "localhost" || name === "[::1]" || (isIPv4(name) && name.startsWith("127."));
}
