/** Forwards as a deployment's record keeps them: a spec's, each with its number on the host. */
import type { Deployment, Forward } from "@bowline/contract/deployments";
import type { Held, Member, StoredForward } from "../members.ts";
import { chooseFree, claimPorts, type AssignedPort } from "../ports.ts";
import { milliseconds } from "../workloads.ts";

/** What the contract promises where a forward says nothing. */
const defaultDrainMs = 10_000;

/**
 * A spec's forwards with their numbers: free ones stay as they were. Throws
 * PORT_TAKEN where a number is somebody else's. What this deployment holds
 * itself, by a forward or an instance that goes, is its own to give. Where the
 * ports are another host's, the forwarder is the first to know.
 */
export async function assignForwards<M extends Member>(
  spec: Pick<Deployment, "forwards">,
  held: Pick<Held<M>, "record" | "slots">,
  place: { defaultAddress: string; reserved(port: number): boolean; portsAreHere: boolean },
): Promise<StoredForward[]> {
  const before = held.record.forwards ?? [];
  const ours = new Set(before.map(({ protocol, published }) => `${protocol} ${published}`));
  for (const { definition } of held.slots.values())
    for (const { protocol, published } of definition.ports) ours.add(`${protocol} ${published}`);
  const assigned: StoredForward[] = [];
  for (const forward of spec.forwards) {
    const stored = storedOf(forward, place.defaultAddress);
    const { name, protocol, address } = stored;
    const earlier = before.find((other) => other.name === name && other.dynamic && other.protocol === protocol);
    const taken = (port: number): boolean =>
      place.reserved(port) || assigned.some(({ published }) => published === port);
    if (stored.dynamic)
      stored.published = earlier?.published ?? (await chooseFree(address, protocol, taken, place.portsAreHere));
    else if (place.portsAreHere && !ours.has(`${protocol} ${stored.published}`))
      await claimPorts(`forward ${name}`, [portOf(stored)]);
    assigned.push(stored);
  }
  return assigned;
}

function storedOf(forward: Forward, defaultAddress: string): StoredForward {
  return {
    name: forward.name,
    protocol: forward.protocol === "udp" ? "udp" : "tcp",
    address: forward.hostAddress === "" ? defaultAddress : forward.hostAddress,
    published: forward.published,
    dynamic: forward.published === 0,
    drainMs: milliseconds(forward.drain) ?? defaultDrainMs,
    backends: forward.backends.map(({ workload, port, weight }) => ({ workload, port, weight: weight || 1 })),
  };
}

function portOf({ name, protocol, address, published, dynamic }: StoredForward): AssignedPort {
  return { name, container: published, address, published, protocol, dynamic };
}
