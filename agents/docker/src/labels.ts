/**
 * The labels by which this runtime knows what is its own. It never touches what
 * lacks them. Nothing secret is in them: whoever may list containers reads them.
 */
import { createHash } from "node:crypto";
import type { Deployment } from "@bowline/contract/deployments";

export const labels = {
  /** Id of the agent's data folder: several agents on one engine leave each other alone. */
  agent: "bowline.agent",
  /** Where the control plane is, for people. */
  installation: "bowline.installation",
  deployment: "bowline.deployment",
  /** At which it was made; it may live on through later ones. */
  generation: "bowline.generation",
  workload: "bowline.workload",
  index: "bowline.index",
  /** Its definition in the deployment's record. */
  slot: "bowline.slot",
  /** Keyed hash of the definition. */
  digest: "bowline.digest",
  /** Of a volume or a network: its name in the spec. */
  name: "bowline.name",
} as const;

/** A filter of the engine's API. */
export function filterOf(wanted: Readonly<Record<string, string>>): string {
  return JSON.stringify({ label: Object.entries(wanted).map(([name, value]) => `${name}=${value}`) });
}

/** The spec's own, but for those that look like ours. */
export function specLabels(spec: Pick<Deployment, "labels">): Record<string, string> {
  return Object.fromEntries(Object.entries(spec.labels).filter(([name]) => !name.startsWith("bowline.")));
}

/**
 * A name on the engine for something of a deployment: readable, and another one
 * for each agent and deployment. Engines take 63 characters for a host name.
 */
export function nameOf(agent: string, deploymentId: string, rest: string): string {
  const whose = createHash("sha256").update(`${agent}/${deploymentId}`).digest("hex").slice(0, 10);
  return `bowline-${whose}-${rest}`;
}
