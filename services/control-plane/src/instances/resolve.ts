/** Which instances a request means. */
import { problem } from "@bowline/kernel";
import type { Principal } from "../platform/context.ts";
import type { InstancePorts, Place } from "./ports.ts";

export interface Wanted {
  stack: string;
  deploymentId: string;
  /** None: all. */
  services: readonly string[];
  /** Id or name; empty: any. */
  agent: string;
  index?: number | undefined;
}

/** Of one call: what a screen can still tell apart. */
const maxInstances = 200;

/** In order of service, agent and index. Throws INVALID_ARGUMENT, NOT_FOUND, INSTANCE_UNKNOWN. */
export async function placesOf(ports: InstancePorts, principal: Principal, wanted: Wanted): Promise<Place[]> {
  if ((wanted.stack === "") === (wanted.deploymentId === ""))
    throw problem("INVALID_ARGUMENT", "Name either a stack or a deployment.");
  const all =
    wanted.stack === ""
      ? await ports.instancesOfDeployment(principal, wanted.deploymentId)
      : await ports.instancesOfStack(principal, wanted.stack);
  const { services, agent, index } = wanted;
  const found = all.filter(
    (place) =>
      (services.length === 0 || services.includes(place.service)) &&
      (agent === "" || agent === place.agent || agent === place.agentId) &&
      (index === undefined || index === place.index),
  );
  if (found.length === 0) throw problem("INSTANCE_UNKNOWN", unknownText(all, wanted));
  if (found.length > maxInstances)
    throw problem(
      "INVALID_ARGUMENT",
      `${found.length} instances match, and at most ${maxInstances} are told; name fewer.`,
    );
  const key = (place: Place): string => `${place.service} ${place.agent} ${String(place.index).padStart(6, "0")}`;
  return found.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
}

function unknownText(all: readonly Place[], { services, agent, index }: Wanted): string {
  if (all.length === 0) return "Nothing of it was observed yet.";
  const asked = [
    ...(services.length === 0 ? [] : [`service ${services.join(", ")}`]),
    ...(agent === "" ? [] : [`agent ${agent}`]),
    ...(index === undefined ? [] : [`index ${index}`]),
  ].join(", ");
  return `No instance matches ${asked}. There are: ${listed(all)}.`;
}

/** A few of them, for people. */
export function listed(places: readonly Place[]): string {
  const shown = 8;
  const names = places.slice(0, shown).map(({ service, index, agent }) => `${service} ${index} at ${agent}`);
  return names.join("; ") + (places.length > shown ? `; and ${places.length - shown} more` : "");
}
