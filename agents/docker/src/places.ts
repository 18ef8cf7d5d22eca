/** What containers of a deployment share: its networks and its volumes. */
import { Refusal } from "@bowline/agent-core/runtimes";
import type { Deployment } from "@bowline/contract/deployments";
import { EngineError, type Engine } from "./engine.ts";
import { filterOf, labels, nameOf, specLabels } from "./labels.ts";

/** Name of the network of a spec that names none. */
const ownNetwork = "default";

export interface Owner {
  engine: Engine;
  /** Value of the label that marks this agent's. */
  agent: string;
}

/** Names on the engine of the networks that every container of a deployment is in. */
export function networkNames(agent: string, spec: Pick<Deployment, "id" | "networks">): string[] {
  if (spec.networks.length === 0) return [nameOf(agent, spec.id, ownNetwork)];
  return spec.networks.map(({ name, externalName }) =>
    externalName === "" ? nameOf(agent, spec.id, name) : externalName,
  );
}

export function volumeName(agent: string, deploymentId: string, volume: string): string {
  return nameOf(agent, deploymentId, volume);
}

export async function makeNetworks({ engine, agent }: Owner, spec: Deployment): Promise<void> {
  const wanted = spec.networks.length === 0 ? [{ name: ownNetwork, internal: false, externalName: "" }] : spec.networks;
  for (const { name, internal, externalName } of wanted) {
    const path = `/networks/${encodeURIComponent(externalName || nameOf(agent, spec.id, name))}`;
    if (await isThere(engine, path)) continue;
    if (externalName !== "")
      throw new Refusal("START_FAILED", `network ${name}: the host has no network ${externalName}`, true);
    try {
      await engine.call("POST", "/networks/create", {
        body: {
          Name: nameOf(agent, spec.id, name),
          CheckDuplicate: true,
          Internal: internal,
          Labels: { ...specLabels(spec), ...marks(agent, spec.id, name) },
        },
      });
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      throw new Refusal("START_FAILED", `network ${name}: ${error.message}`, true);
    }
  }
}

/** Throws VOLUME_FAILED. */
export async function makeVolumes({ engine, agent }: Owner, spec: Deployment): Promise<void> {
  for (const { name, externalName } of spec.volumes) {
    try {
      if (externalName !== "") await engine.call("GET", `/volumes/${encodeURIComponent(externalName)}`);
      else
        await engine.call("POST", "/volumes/create", {
          body: {
            Name: volumeName(agent, spec.id, name),
            Labels: { ...specLabels(spec), ...marks(agent, spec.id, name) },
          },
        });
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      throw new Refusal("VOLUME_FAILED", `volume ${name}: ${error.message}`, true);
    }
  }
}

/** Removes networks of a deployment, but for those that are named. */
export async function removeNetworks({ engine, agent }: Owner, deploymentId: string, keep: string[]): Promise<void> {
  const filters = filterOf({ [labels.agent]: agent, [labels.deployment]: deploymentId });
  const networks = await engine.call<{ Id: string; Name: string }[]>("GET", "/networks", { query: { filters } });
  for (const { Id, Name } of networks) {
    if (!keep.includes(Name)) await gone(engine.call("DELETE", `/networks/${Id}`));
  }
}

/** Removes volumes of a deployment: those that are not kept, or with `all` whatever is there. */
export async function removeVolumes(
  { engine, agent }: Owner,
  deploymentId: string,
  keeping: Readonly<Record<string, boolean>>,
  all: boolean,
): Promise<void> {
  const filters = filterOf({ [labels.agent]: agent, [labels.deployment]: deploymentId });
  const { Volumes } = await engine.call<{ Volumes: { Name: string; Labels: Record<string, string> }[] | null }>(
    "GET",
    "/volumes",
    { query: { filters } },
  );
  for (const { Name, Labels } of Volumes ?? []) {
    // A volume that nobody remembers was kept once: only an explicit wish removes it.
    if (all || keeping[Labels[labels.name] ?? ""] === false) await gone(engine.call("DELETE", `/volumes/${Name}`));
  }
}

function marks(agent: string, deploymentId: string, name: string): Record<string, string> {
  return { [labels.agent]: agent, [labels.deployment]: deploymentId, [labels.name]: name };
}

async function isThere(engine: Engine, path: string): Promise<boolean> {
  try {
    await engine.call("GET", path);
    return true;
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return false;
    throw error;
  }
}

/** What is gone already is as it should be. */
export async function gone(removal: Promise<unknown>): Promise<void> {
  try {
    await removal;
  } catch (error) {
    if (!(error instanceof EngineError && error.status === 404)) throw error;
  }
}
