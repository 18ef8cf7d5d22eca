/**
 * What containers of a deployment share: its networks and its volumes.
 *
 * P1: a network cannot be changed, so its name says what it is: another kind of
 *     network is another one, beside the old until that has no container left.
 * P2: a volume cannot be changed either, and has data: it is refused.
 * P3: what is from outside is what its name says and nothing else: policy and
 *     denials were asked by that name, and "host" has an id as well.
 */
import { invalid, Refusal } from "@bowline/agent-core/runtimes";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { EngineError, type Engine } from "./engine.ts";
import { filterOf, labels, nameOf, specLabels } from "./labels.ts";

/** Name of the network of a spec that names none. */
const ownNetwork = "default";

export interface Owner {
  engine: Engine;
  /** Value of the label that marks this agent's. */
  agent: string;
}

/** A network as a container joins it. */
export interface Joined {
  /** Its name on the engine. */
  network: string;
  /** Names by which the container is found there. */
  aliases: string[];
}

/** The networks that a workload is in: those that it names, else all. */
export function networksOf(
  agent: string,
  spec: Pick<Deployment, "id" | "networks">,
  workload: Pick<Workload, "name" | "networks">,
): Joined[] {
  if (workload.networks.length === 0)
    return networkNames(agent, spec).map((network) => ({ network, aliases: [workload.name] }));
  return workload.networks.map(({ network, aliases }) => {
    const known = spec.networks.find(({ name }) => name === network);
    if (known === undefined)
      throw invalid(`workload ${workload.name}: it is in a network ${network}, which the spec does not have`);
    return { network: networkName(agent, spec.id, known), aliases: [...new Set([workload.name, ...aliases])] };
  });
}

/** Names on the engine of a deployment's networks. */
export function networkNames(agent: string, spec: Pick<Deployment, "id" | "networks">): string[] {
  if (spec.networks.length === 0) return [nameOf(agent, spec.id, ownNetwork)];
  return spec.networks.map((network) => networkName(agent, spec.id, network));
}

function networkName(agent: string, deploymentId: string, network: Kind & { name: string }): string {
  return network.externalName || nameOf(agent, deploymentId, `${network.name}${kindOf(network)}`);
}

type Kind = Pick<Deployment["networks"][number], "internal" | "driver" | "externalName">;

/** What a network is that is not a usual one, as its name says it (P1); names of a spec have no dot. */
export function kindOf({ internal, driver, externalName }: Kind): string {
  if (externalName !== "") return "";
  return `${internal ? ".internal" : ""}${driver === "" ? "" : `.${driver.replaceAll(/[^a-zA-Z0-9_.-]/g, "_")}`}`;
}

export function volumeName(agent: string, deploymentId: string, volume: string): string {
  return nameOf(agent, deploymentId, volume);
}

export async function makeNetworks({ engine, agent }: Owner, spec: Deployment): Promise<void> {
  const wanted =
    spec.networks.length === 0 ? [{ name: ownNetwork, internal: false, externalName: "", driver: "" }] : spec.networks;
  for (const network of wanted) {
    const { name, internal, externalName, driver } = network;
    const Name = networkName(agent, spec.id, network);
    if (await hasNetwork(engine, Name)) continue;
    if (externalName !== "")
      throw new Refusal("START_FAILED", `network ${name}: the host has no network ${externalName}`, true);
    try {
      await engine.call("POST", "/networks/create", {
        body: {
          Name,
          CheckDuplicate: true,
          Internal: internal,
          ...(driver === "" ? {} : { Driver: driver }),
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
  for (const { name, externalName, driver, driverOptions } of spec.volumes) {
    try {
      if (externalName !== "") {
        await engine.call("GET", `/volumes/${encodeURIComponent(externalName)}`);
        continue;
      }
      const made = await engine.call<{ Driver: string; Options: Record<string, string> | null }>(
        "POST",
        "/volumes/create",
        {
          body: {
            Name: volumeName(agent, spec.id, name),
            ...(driver === "" ? {} : { Driver: driver }),
            DriverOpts: driverOptions,
            Labels: { ...specLabels(spec), ...marks(agent, spec.id, name) },
          },
        },
      );
      // Where one of that name was there it is what it was, and the engine does not say so.
      if (made.Driver !== (driver || made.Driver) || !sameOptions(made.Options ?? {}, driverOptions))
        throw new Refusal(
          "VOLUME_FAILED",
          `volume ${name}: it is there with another driver or other options, which cannot be changed: give it another name, or remove the old one with its data`,
          false,
        ); // P2
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

function sameOptions(one: Readonly<Record<string, string>>, other: Readonly<Record<string, string>>): boolean {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

function marks(agent: string, deploymentId: string, name: string): Record<string, string> {
  return { [labels.agent]: agent, [labels.deployment]: deploymentId, [labels.name]: name };
}

/** By its name: an engine also finds one by its id or the beginning of that, and whose it is was asked by name (P3). */
async function hasNetwork(engine: Engine, name: string): Promise<boolean> {
  try {
    const found = await engine.call<{ Name: string }>("GET", `/networks/${encodeURIComponent(name)}`);
    return found.Name === name;
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
