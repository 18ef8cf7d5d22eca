/**
 * Which addresses count as private: loopback, private ranges, link-local (with
 * the clouds' metadata addresses), shared, multicast, reserved. Source: the
 * IANA special-purpose address registries.
 */
import { BlockList, isIP, isIPv6 } from "node:net";

const privateRanges = new BlockList();
for (const [network, bits] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
] as const) {
  privateRanges.addSubnet(network, bits, "ipv4");
}
for (const [network, bits] of [
  ["::", 96], // unspecified, loopback, and IPv4-compatible ones
  ["64:ff9b:1::", 48],
  ["100::", 64],
  ["2001::", 23], // Teredo and other tunnels: the IPv4 address inside is anybody's
  ["2001:db8::", 32],
  ["2002::", 16], // 6to4: as above
  ["fc00::", 7],
  ["fe80::", 10],
  ["fec0::", 10],
  ["ff00::", 8],
] as const) {
  privateRanges.addSubnet(network, bits, "ipv6");
}

/** Prefixes whose last 32 bits are an IPv4 address: mapped, and NAT64. */
const embedding = new BlockList();
embedding.addSubnet("::ffff:0:0", 96, "ipv6");
embedding.addSubnet("64:ff9b::", 96, "ipv6");

/** `address` is an IP address without brackets. What is none counts as private. */
export function isPrivateAddress(address: string): boolean {
  const zoneless = address.split("%", 1)[0]!;
  if (isIP(zoneless) === 0) return true;
  if (!isIPv6(zoneless)) return privateRanges.check(zoneless, "ipv4");
  if (embedding.check(zoneless, "ipv6")) return privateRanges.check(lastIpv4(zoneless), "ipv4");
  return privateRanges.check(zoneless, "ipv6");
}

function lastIpv4(address: string): string {
  const dotted = /(\d+\.\d+\.\d+\.\d+)$/.exec(address);
  if (dotted !== null) return dotted[1]!;
  // The URL parser writes the shortest form; the last two groups are the address.
  const groups = new URL(`http://[${address}]/`).hostname.slice(1, -1).split(":");
  const [high, low] = groups.slice(-2).map((group) => (group === "" ? 0 : Number.parseInt(group, 16)));
  return [high! >> 8, high! & 255, low! >> 8, low! & 255].join(".");
}
