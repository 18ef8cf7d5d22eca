/**
 * Where a backend may be. What a name resolves to is checked again by the data
 * plane; here only what the URL says by itself.
 *
 * B1: the host is judged in the URL parser's form, so that 0x7f.1, 2130706433 and 127.0.0.1 are one address.
 */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import type { ProductManifest } from "@bowline/contract/products";

/** What is wrong with a backend's URL, as a sentence; undefined: nothing. */
export function backendUrlProblem(text: string): string | undefined {
  // The URL parser drops tabs and line breaks and trims; what is stored is what was checked.
  if (/[^\x21-\x7e]/.test(text)) return "must not contain spaces, control characters or characters beyond ASCII";
  if (text.includes("\\")) return "must not contain a backslash";
  if (!/^https?:\/\//i.test(text)) return "must start with http:// or https://";
  const url = URL.parse(text);
  if (url === null) return "is not a URL: expected http://host[:port][/path] or https://…";
  if (url.username !== "" || url.password !== "" || /^[^/]*\/\/[^/?#]*@/.test(text))
    return "must not have user info (user:password@)";
  if (text.includes("?")) return "must not have a query";
  if (text.includes("#")) return "must not have a fragment";
  if (url.hostname === "" || /^https?:\/\/\//i.test(text)) return "has no host";
  if (url.port === "0") return "must have a port from 1 to 65535";
  const path = text.replace(/^https?:\/\/[^/]*/i, "");
  if (/(^|\/)(\.|%2e){1,2}(\/|$)/i.test(path)) return "must not have `.` or `..` in its path";
  if (path.includes("//")) return "must not have an empty path element (//)";
  return undefined;
}

/** The metadata services of clouds, by the names that they answer to. */
const metadataNames = new Set([
  "metadata.google.internal",
  "metadata.goog",
  "metadata",
  "instance-data",
  "instance-data.ec2.internal",
  "metadata.tencentyun.com",
  "metadata.azure.internal",
]);

/** Addresses inside, per the IANA special-purpose registries: nothing here is reached over the internet. */
const inside = new BlockList();
for (const [network, bits] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10], // shared by carriers; one cloud's metadata is 100.100.100.200
  ["127.0.0.0", 8],
  ["169.254.0.0", 16], // link-local; the clouds' metadata is 169.254.169.254
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
  ["168.63.129.16", 32], // Azure's platform address, public by its number only
] as const)
  inside.addSubnet(network, bits, "ipv4");
for (const [network, bits] of [
  ["::", 96], // unspecified, loopback, and IPv4-compatible addresses
  ["64:ff9b:1::", 48],
  ["100::", 64],
  ["2001::", 23], // Teredo and other tunnels: the IPv4 address inside is anybody's
  ["2001:db8::", 32],
  ["2002::", 16], // 6to4: as above
  ["fc00::", 7],
  ["fe80::", 10],
  ["fec0::", 10],
  ["ff00::", 8],
] as const)
  inside.addSubnet(network, bits, "ipv6");

/** Prefixes whose last 32 bits are an IPv4 address: mapped, and NAT64. */
const carriesIpv4 = new BlockList();
carriesIpv4.addSubnet("::ffff:0:0", 96, "ipv6");
carriesIpv4.addSubnet("64:ff9b::", 96, "ipv6");

/** Whether a URL's host is, by what it says itself, loopback, link-local, private or a metadata service (B1). */
export function isPrivateUrl(text: string): boolean {
  const url = URL.parse(text);
  // What can't be read is refused elsewhere; nobody may conclude that it is public.
  if (url === null) return true;
  const host = url.hostname.toLowerCase().replace(/\.$/, "");
  if (host.startsWith("[")) return isPrivateIpv6(host.slice(1, -1));
  if (isIPv4(host)) return inside.check(host, "ipv4");
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  if (host === "localhost.localdomain" || host === "ip6-localhost" || host === "ip6-loopback") return true;
  return metadataNames.has(host);
}

function isPrivateIpv6(address: string): boolean {
  if (!isIPv6(address)) return true;
  if (!carriesIpv4.check(address, "ipv6")) return inside.check(address, "ipv6");
  // The URL parser writes the last 32 bits as two groups.
  const [high = 0, low = 0] = address
    .split(":")
    .slice(-2)
    .map((group) => Number.parseInt(group || "0", 16));
  return inside.check([high >> 8, high & 255, low >> 8, low & 255].join("."), "ipv4");
}

/** A product's backends that point inside, with the field that says so. */
export function privateBackends(manifest: ProductManifest): { path: string; url: string }[] {
  return manifest.apiServices.flatMap((service, s) =>
    service.backends.flatMap((backend, b) =>
      isPrivateUrl(backend.url) ? [{ path: `api_services[${s}].backends[${b}].url`, url: backend.url }] : [],
    ),
  );
}
