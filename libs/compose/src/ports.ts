/** Published ports: the short syntax, ranges, and the long one. */
import { MAX_PORT_RANGE } from "./limits.ts";
import type { Port } from "./model.ts";
import { textOf, type Tree } from "./tree.ts";
import { Unreadable } from "./unreadable.ts";

const shortForm = 'Write [HOST_IP:][PUBLISHED:]TARGET[/tcp|udp], such as "127.0.0.1:8080:80" or "6060:6060/udp".';

/** The ports of one entry of `ports`, each on its own. */
export function readPorts(entry: Tree): Port[] {
  if (entry.kind === "scalar") return shortPorts(textOf(entry));
  if (entry.kind !== "mapping") throw new Unreadable("a port is a string or a mapping", shortForm);
  const text = (key: string) => {
    const value = entry.entries.get(key);
    return value?.kind === "scalar" && value.value !== null ? textOf(value) : undefined;
  };
  const target = text("target");
  if (target === undefined)
    throw new Unreadable("the port has no target", "Add target: the port inside the container.");
  const name = text("name");
  const ports = spread(
    target,
    text("published"),
    protocolOf(text("protocol") ?? "tcp"),
    addressOf(text("host_ip") ?? ""),
  );
  return name === undefined ? ports : ports.map((port) => ({ ...port, name }));
}

/** What makes a port the same in two files. */
export function portKey(entry: Tree): string {
  try {
    return JSON.stringify(
      readPorts(entry).map(({ container, published, protocol, hostAddress }) => [
        hostAddress,
        container,
        published,
        protocol,
      ]),
    );
  } catch {
    // Not readable: it is the same as nothing, and normalising says what is wrong.
    return JSON.stringify(entry);
  }
}

function shortPorts(text: string): Port[] {
  const slash = text.lastIndexOf("/");
  const protocol = protocolOf(slash < 0 ? "tcp" : text.slice(slash + 1));
  const parts = /^(?:(?<address>\[[0-9a-fA-F:.]+\]|[0-9.]*):)?(?:(?<published>[0-9-]*):)?(?<target>[0-9-]+)$/.exec(
    slash < 0 ? text : text.slice(0, slash),
  )?.groups;
  if (parts === undefined) throw new Unreadable(`${JSON.stringify(text)} is no port`, shortForm);
  // With two parts the first is the published port: an address needs all three, or a dot.
  let { address, published } = parts;
  if (published === undefined && address !== undefined && /^[0-9]*$/.test(address))
    [address, published] = ["", address];
  return spread(parts["target"] ?? "", published, protocol, addressOf(address ?? ""));
}

function protocolOf(text: string): "tcp" | "udp" {
  const protocol = text.toLowerCase();
  if (protocol !== "tcp" && protocol !== "udp")
    throw new Unreadable(`the protocol ${JSON.stringify(text)} is not supported`, "Use tcp or udp.");
  return protocol;
}

function addressOf(text: string): string {
  const address = text.startsWith("[") ? text.slice(1, -1) : text;
  const four = /^(\d{1,3})(\.\d{1,3}){3}$/.test(address) && address.split(".").every((part) => Number(part) < 256);
  if (address !== "" && !four && !(address.includes(":") && /^[0-9a-fA-F:.]+$/.test(address)))
    throw new Unreadable(`${JSON.stringify(text)} is no address of a host`, "Write an IP address, such as 127.0.0.1.");
  return address;
}

/** `8000-8002` as its numbers. */
export function portRange(text: string): number[] {
  const range = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const first = Number(range?.[1]);
  const last = Number(range?.[2] ?? range?.[1]);
  if (range === null || last > 65535 || last < first)
    throw new Unreadable(
      `${JSON.stringify(text)} is no port or range of ports`,
      "Ports are 1 to 65535, ranges FIRST-LAST.",
    );
  if (last - first >= MAX_PORT_RANGE)
    throw new Unreadable(`a range of more than ${MAX_PORT_RANGE} ports`, "Publish fewer ports.");
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

function spread(target: string, published: string | undefined, protocol: "tcp" | "udp", hostAddress: string): Port[] {
  const inside = portRange(target);
  if (inside.includes(0))
    throw new Unreadable("port 0 inside the container", "Write the port that the program listens on.");
  // Not said: any free one of the host.
  if (published === undefined || published === "")
    return inside.map((container) => ({ container, published: 0, protocol, hostAddress }));
  const outside = portRange(published);
  if (inside.length !== outside.length)
    throw new Unreadable(
      `${outside.length} published ports for ${inside.length} inside`,
      "Make both ranges equally long; one that a free port is picked from is not supported.",
    );
  return inside.map((container, index) => ({ container, published: outside[index] ?? 0, protocol, hostAddress }));
}
