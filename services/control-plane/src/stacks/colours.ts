/**
 * Names of workloads: a service has one or, while old and new run side by side,
 * two, which are told apart by their colour. Which is live changes with each
 * rollout of that kind, so that what runs is never renamed.
 */
import { createHash } from "node:crypto";

/** Services whose workload is the green one; of all others it is the plain one. */
export type Colours = Readonly<Record<string, "green">>;

const mark = "--green";
const longestName = 63;

/** The name of a service, volume, network or file of a stack inside a deployment: a DNS label without a colour. */
export function innerName(name: string): string {
  if (/^[a-z][a-z0-9-]{0,62}$/.test(name) && !name.endsWith(mark)) return name;
  const plain = name.toLowerCase().replaceAll(/[^a-z0-9-]/g, "-");
  return shortened(`${/^[a-z]/.test(plain) ? "" : "s"}${plain}`, name, longestName);
}

/** A name of something that a service has for itself, in its colour. */
export function colouredName(name: string, service: string, colours: Colours): string {
  const plain = innerName(name);
  if (colours[service] === undefined) return plain;
  const room = longestName - mark.length;
  return `${plain.length > room ? shortened(plain, name, room) : plain}${mark}`;
}

export function workloadName(service: string, colours: Colours): string {
  return colouredName(service, service, colours);
}

/** The service that a workload is of, whatever its colour; undefined: of none of these. */
export function serviceOfWorkload(workload: string, services: readonly string[]): string | undefined {
  return services.find(
    (service) => workloadName(service, {}) === workload || workloadName(service, { [service]: "green" }) === workload,
  );
}

/** The colours after a rollout in which these services ran side by side. */
export function toggled(colours: Colours, services: readonly string[]): Colours {
  const rest = Object.entries(colours).filter(([service]) => !services.includes(service));
  const turned = services.filter((service) => colours[service] === undefined).map((one) => [one, "green"] as const);
  return Object.fromEntries([...rest, ...turned].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** Two names may become the same plain one: a part of its digest tells them apart. */
function shortened(plain: string, name: string, most: number): string {
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 6);
  return `${plain.slice(0, most - digest.length - 1)}-${digest}`;
}
