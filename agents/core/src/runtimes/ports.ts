/**
 * Ports of an instance. A process shares the host's ports, so a port is what
 * the process is told to listen on, by its environment.
 *
 * - `published` is a number: that one, or PORT_TAKEN.
 * - `published` is 0: a free one, kept as long as the instance's definition.
 * - `published` is unset: nothing maps it, so it is `container` itself; where
 *   that is 0, or where forwards lead to such a port, a free one.
 */
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import { errorCode } from "./durable.ts";
import { Refusal } from "./refusal.ts";

export interface AssignedPort {
  name: string;
  container: number;
  address: string;
  published: number;
  protocol: "tcp" | "udp";
  /** Chosen here, not named by the spec. */
  dynamic: boolean;
}

/**
 * Where free ports are looked for: below the range from which Linux takes the
 * local ends of outgoing connections, so that none of those takes a port while
 * its instance restarts.
 */
const firstDynamic = 20_000;
const lastDynamic = 32_700;

/** Tries before we say that there is none: with half of the range taken, all fail once in 10^19. */
const dynamicTries = 64;

const defaultAddress = "127.0.0.1";

/** What a port is called where the spec gives no name. */
export function portName(port: { name: string; container: number }): string {
  return port.name === "" ? String(port.container) : port.name;
}

/** The number that the spec names; undefined where the runtime chooses. */
export function fixedNumber(port: Port): number | undefined {
  const number = port.published ?? port.container;
  return number === 0 ? undefined : number;
}

/**
 * The same where a spec has forwards: what they may lead to has to run beside its like, so it is any free number,
 * also of workloads that no forward leads to yet.
 */
export function numberBehind({ forwards }: Pick<Deployment, "forwards">): (port: Port) => number | undefined {
  const behind = new Set(
    forwards.flatMap(({ protocol, backends }) => backends.map(({ port }) => `${protocol || "tcp"} ${port}`)),
  );
  return (port) => {
    const names = [portName(port), String(port.container)].map((name) => `${port.protocol || "tcp"} ${name}`);
    return port.published === undefined && names.some((name) => behind.has(name)) ? undefined : fixedNumber(port);
  };
}

/** Finds a port by name, else by its number inside. */
export function findPort<P extends { name: string; container: number }>(
  ports: readonly P[],
  wanted: string,
): P | undefined {
  return ports.find((port) => portName(port) === wanted) ?? ports.find((port) => String(port.container) === wanted);
}

/**
 * Gives each port of a workload its number. `inherited` are the ports of the
 * definition that it takes the place of: the free ones stay the same.
 * `reserved` is asked before a free port is chosen. `numberOf`: what the spec names.
 */
export async function assignPorts(
  workload: Workload,
  inherited: readonly AssignedPort[],
  reserved: (port: number) => boolean,
  numberOf: (port: Port) => number | undefined = fixedNumber,
): Promise<AssignedPort[]> {
  const assigned: AssignedPort[] = [];
  for (const port of workload.ports) {
    const protocol = port.protocol === "udp" ? "udp" : "tcp";
    const address = port.hostAddress === "" ? defaultAddress : port.hostAddress;
    const fixed = numberOf(port);
    const common = { name: portName(port), container: port.container, address, protocol } as const;
    if (fixed !== undefined) {
      assigned.push({ ...common, published: fixed, dynamic: false });
      continue;
    }
    const before = inherited.find((earlier) => earlier.dynamic && earlier.name === common.name);
    const taken = (number: number): boolean => reserved(number) || assigned.some((other) => other.published === number);
    const published = before?.published ?? (await chooseFree(address, protocol, taken));
    assigned.push({ ...common, published, dynamic: true });
  }
  return assigned;
}

/** Throws PORT_TAKEN, naming the port, if somebody else has one of them. */
export async function claimPorts(workload: string, ports: readonly AssignedPort[]): Promise<void> {
  for (const port of ports) {
    const problem = await tryToBind(port.address, port.published, port.protocol);
    if (problem === "EADDRINUSE") {
      throw new Refusal(
        "PORT_TAKEN",
        `port ${port.published} on ${port.address} (${port.name} of ${workload}) is in use by another program`,
        true,
      );
    }
    if (problem === "EADDRNOTAVAIL") {
      throw new Refusal(
        "START_FAILED",
        `${port.address} (${port.name} of ${workload}) is not an address of this host`,
        false,
      );
    }
    // Anything else (no right to a low port) is for the program to meet: it may have rights that we lack.
  }
}

/** Gives each dynamic port that was lost to another program another number. True if there was one. */
export async function renewTaken(ports: AssignedPort[], reserved: (port: number) => boolean): Promise<boolean> {
  let renewed = false;
  for (const port of ports) {
    if (!port.dynamic || (await tryToBind(port.address, port.published, port.protocol)) !== "EADDRINUSE") continue;
    port.published = await chooseFree(port.address, port.protocol, reserved);
    renewed = true;
  }
  return renewed;
}

/** Variables that tell a process its ports: `BOWLINE_PORT_<NAME>`, and `PORT` for the first. */
export function portEnvironment(ports: readonly AssignedPort[]): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [index, port] of ports.entries()) {
    if (index === 0) variables["PORT"] = String(port.published);
    variables[`BOWLINE_PORT_${port.name.toUpperCase().replaceAll(/[^A-Z0-9]/g, "_")}`] = String(port.published);
  }
  return variables;
}

/** Where the agent itself reaches a port: an address that stands for all of them is reached by loopback. */
export function reachable(port: AssignedPort): { host: string; port: number } {
  const host = port.address === "0.0.0.0" ? "127.0.0.1" : port.address === "::" ? "::1" : port.address;
  return { host, port: port.published };
}

/** A free number on this host; not looked up if it is for another one. Throws PORT_TAKEN if none is found. */
export async function chooseFree(
  address: string,
  protocol: "tcp" | "udp",
  taken: (port: number) => boolean,
  isHere = true,
): Promise<number> {
  for (let attempt = 0; attempt < dynamicTries; attempt += 1) {
    const candidate = firstDynamic + Math.floor(Math.random() * (lastDynamic - firstDynamic));
    if (taken(candidate)) continue;
    if (!isHere || (await tryToBind(address, candidate, protocol)) === undefined) return candidate;
  }
  throw new Refusal("PORT_TAKEN", `no free port found on ${address} after ${dynamicTries} tries`, true);
}

/** The error's code, or undefined if the port is free. */
function tryToBind(address: string, port: number, protocol: "tcp" | "udp"): Promise<string | undefined> {
  return new Promise((resolve) => {
    const fail = (error: Error): void => resolve(errorCode(error) ?? "UNKNOWN");
    if (protocol === "udp") {
      const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
      socket.once("error", fail);
      socket.bind(port, address, () => socket.close(() => resolve(undefined)));
      return;
    }
    const server = createServer();
    server.once("error", fail);
    server.listen({ host: address, port, exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}
