/**
 * The labels by which this runtime knows what is its own. It never touches what
 * lacks them. Nothing secret is in them: whoever may list containers reads them.
 */
import { createHash } from "node:crypto";
import type { Deployment, Workload } from "@bowline/contract/deployments";

export const labels = {
  /** Id of the agent's data folder: several agents on one engine leave each other alone. */
  agent: "bowline.agent",
  /** Where the control plane is, for people. */
  installation: "bowline.installation",
  deployment: "bowline.deployment",
  /** At which it was made; it may live on through later ones. */
  generation: "bowline.generation",
  workload: "bowline.workload",
  /** What people call the workload, such as the service of a stack. */
  service: "bowline.service",
  index: "bowline.index",
  /** Its definition in the deployment's record. */
  slot: "bowline.slot",
  /** Keyed hash of the definition. */
  digest: "bowline.digest",
  /** Of a volume or a network: its name in the spec. */
  name: "bowline.name",
  /** Of a forwarder: its version (forwarder.ts). */
  forwarder: "bowline.forwarder",
} as const;

/** What the control plane says whose it is, for people. */
const stackLabel = "bowline.stack";
const reserved = "bowline.";
/** What a forwarder's container has as slot and as workload. No instance's slot looks like it: those end with random digits. */
export const forwarderSlot = "forwarder";

/** A filter of the engine's API. */
export function filterOf(wanted: Readonly<Record<string, string>>): string {
  return JSON.stringify({ label: Object.entries(wanted).map(([name, value]) => `${name}=${value}`) });
}

/** The spec's own, with what the control plane says whose it is, but for those by which we know our own. */
export function specLabels(spec: Pick<Deployment, "labels">): Record<string, string> {
  const ours = new Set<string>(Object.values(labels));
  return Object.fromEntries(Object.entries(spec.labels).filter(([name]) => !ours.has(name)));
}

/** A workload's own: people wrote them, so none looks like ours or the control plane's. */
export function workloadLabels({ labels: own }: Pick<Workload, "labels">): Record<string, string> {
  return Object.fromEntries(Object.entries(own).filter(([name]) => !name.startsWith(reserved)));
}

/**
 * A container's name: the stack and the service, where it is of one, for whoever looks at `docker ps`. What tells it
 * from others is the random part of its slot; nobody finds it by its name.
 */
export function containerName(agent: string, spec: Pick<Deployment, "id" | "labels">, slot: string): string {
  const stack = spec.labels[stackLabel] ?? "";
  return /^[a-z][a-z0-9-]{0,62}$/.test(stack) ? `bowline-${stack}-${slot}` : nameOf(agent, spec.id, slot);
}

/**
 * A name on the engine for something of a deployment: readable, and another one
 * for each agent and deployment. Engines take 63 characters for a host name.
 */
export function nameOf(agent: string, deploymentId: string, rest: string): string {
  const whose = createHash("sha256").update(`${agent}/${deploymentId}`).digest("hex").slice(0, 10);
  return `bowline-${whose}-${rest}`;
}
