/**
 * Who may scrape `/metrics`: whoever is on this machine, and whoever has an API
 * token that may read the installation. It names no tenant (M1 in metrics.ts),
 * but how many agents and commands there are is nobody else's business.
 */
import { isIPv4 } from "node:net";
import { problem } from "@bowline/kernel";
import type { Principal } from "./context.ts";
import type { RateLimits } from "./rate-limits.ts";

export interface ScrapePorts {
  /** True: everybody may; something in front decides. */
  open: boolean;
  authenticate(headers: Headers): Promise<Principal | undefined>;
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
    if (isLoopback(remoteAddress) && forwarding.every((name) => headers[name] === undefined)) return;
    throw problem(
      "UNAUTHENTICATED",
      "From elsewhere /metrics needs `Authorization: Bearer <API token>` of a viewer, operator or admin.",
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
