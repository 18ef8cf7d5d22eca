/** What is dialled, and whom to trust there. */
import { isIP } from "node:net";

/** Proxies as they were set, e.g. by proxiesOf; nothing is parsed before it is needed. */
export interface ProxySettings {
  https?: string | undefined;
  http?: string | undefined;
  /** With commas: names (their subdomains too), addresses, networks (10.0.0.0/8), each with an optional port, or `*`. */
  none?: string | undefined;
}

/** Where to and how. Made anew for each dial, so that renewed files count. */
export interface DialTarget {
  /** `http://…` or `https://…`; a path is a prefix and does not matter here. */
  url: string;
  /** PEM of the authorities to trust instead of the system's; an intermediate one or the certificate itself will do. */
  ca?: string | undefined;
  /** What is shown to a server that asks for a client certificate; PEM. */
  clientCertificate?: { cert: string; key: string } | undefined;
  /** Default: none. */
  proxies?: ProxySettings | undefined;
  /** Which of this machine's addresses it dials from. Default: the system's choice. */
  localAddress?: string | undefined;
  /** Bound of each step. Default: `stepTimeoutMs`. */
  stepTimeoutMs?: number | undefined;
}

/** A step that takes longer has failed: several retransmissions on a bad line, and below people's patience. */
export const stepTimeoutMs = 10_000;

/** A host and a port, as TCP wants them. */
export interface Endpoint {
  host: string;
  port: number;
}

/** Where a URL points: the default port where it names none, IPv6 without brackets. */
export function endpointOf(url: URL): Endpoint {
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port),
  };
}

/** `host:port` for people and for CONNECT. */
export function authorityOf({ host, port }: Endpoint): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/** True for names and addresses of this machine itself. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, "");
  return name === "localhost" || name.endsWith(".localhost") || name === "::1" || /^127\.\d+\.\d+\.\d+$/.test(name);
}
