/**
 * Who dialled: the peer of the connection, or whom a trusted proxy names.
 *
 * Q1: what stands in X-Forwarded-For or Forwarded counts only as far as each
 *     hop that wrote it is a trusted proxy: read from the right, the first
 *     address that is none is the client. Whatever a client writes itself
 *     stands further left and is never reached.
 * Q2: nothing else of what a proxy says decides anything: not the protocol, not
 *     a host.
 */
import { BlockList, isIP } from "node:net";

/** Hops that are read: longer ways than through a CDN, a balancer and an ingress are nobody's. */
const maxHops = 16;

/** Tells the client's address from the connection's and the request's headers. */
export type ClientAddress = (
  peer: string | undefined,
  headers: Readonly<Record<string, string | string[] | undefined>>,
) => string;

/** `text`: networks and addresses with commas between. Throws a RangeError that names a wrong one. */
export function clientAddresses(text: string): ClientAddress {
  const trusted = networksOf(text);
  return (peer, headers) => {
    const direct = plain(peer ?? "");
    if (!trusted(direct)) return direct;
    const hops = hopsOf(headers);
    let nearest = direct;
    for (let at = hops.length - 1; at >= 0 && at >= hops.length - maxHops; at -= 1) {
      const hop = hops[at] ?? "";
      if (isIP(hop) === 0) return nearest; // `unknown`, a name, rubbish: what is left of it is nobody's word
      nearest = hop;
      if (!trusted(hop)) return hop; // Q1
    }
    return nearest;
  };
}

function networksOf(text: string): (address: string) => boolean {
  const list = new BlockList();
  const entries = text
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
  for (const entry of entries) {
    const [address = "", bits, ...more] = entry.split("/");
    const family = isIP(address) === 4 ? "ipv4" : "ipv6";
    const longest = family === "ipv4" ? 32 : 128;
    const length = bits === undefined ? longest : /^\d{1,3}$/.test(bits) ? Number(bits) : Number.NaN;
    if (isIP(address) === 0 || more.length > 0 || !(length <= longest)) {
      throw new RangeError(`${entry} is no address and no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8`);
    }
    list.addSubnet(address, length, family);
  }
  return (address) => {
    const family = isIP(address);
    return family !== 0 && list.check(address, family === 4 ? "ipv4" : "ipv6");
  };
}

/** Nearest last. X-Forwarded-For where both are there: proxies append to that one. */
function hopsOf(headers: Readonly<Record<string, string | string[] | undefined>>): string[] {
  const read = (name: string): string | undefined => {
    const value = headers[name];
    return Array.isArray(value) ? value.join(",") : value;
  };
  const list = read("x-forwarded-for");
  if (list !== undefined) return list.split(",").map(addressOf);
  return (read("forwarded") ?? "")
    .split(",")
    .map((hop) => addressOf(/(?:^|;)\s*for\s*=\s*("[^"]*"|[^;]*)/i.exec(hop)?.[1]?.replaceAll('"', "") ?? ""));
}

/** Without a port, brackets or a zone. */
function addressOf(text: string): string {
  const trimmed = text.trim();
  const bracketed = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1];
  return plain(bracketed ?? trimmed.replace(/^(\d+\.\d+\.\d+\.\d+):\d+$/, "$1"));
}

/** An IPv4 address that came over IPv6 is an IPv4 address. */
function plain(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
}
