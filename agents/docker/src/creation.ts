/** Makes a container with all that it needs before its first start. */
import { crashPoint } from "@bowline/kernel";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { filesOf } from "./archive.ts";
import { refusalOf } from "./containers.ts";
import type { Engine } from "./engine.ts";
import { withoutMemory } from "./memory.ts";
import { containerOf, type Definition } from "./workloads.ts";

/** All of a container or nothing: its other networks and its files are there before it can start. */
export async function createContainer(
  engine: Engine,
  spec: Deployment,
  definition: Definition,
  workload: Workload,
  given: Parameters<typeof containerOf>[3],
): Promise<string> {
  const { name, networks, body } = containerOf(definition, workload, spec, given);
  try {
    const query = { name, platform: workload.container?.platform || undefined };
    const { Id } = await engine.call<{ Id: string }>("POST", "/containers/create", { query, body });
    crashPoint("docker.before-files");
    try {
      for (const { network, aliases } of networks.slice(1)) {
        await engine.call("POST", `/networks/${encodeURIComponent(network)}/connect`, {
          body: { Container: Id, EndpointConfig: { Aliases: aliases } },
        });
      }
      // A definition of an older agent has none in memory.
      const inMemory = given.memoryMounts !== undefined && definition.memoryFiles !== undefined;
      const copied = inMemory ? withoutMemory(workload, spec) : workload;
      const files = filesOf(copied, spec, given.secrets);
      if (files !== undefined)
        await engine.call("PUT", `/containers/${Id}/archive`, { query: { path: "/" }, body: files });
      return Id;
    } catch (error) {
      await engine.call("DELETE", `/containers/${Id}`, { query: { force: true, v: true } });
      throw error;
    }
  } catch (error) {
    throw refusalOf(error, `workload ${workload.name}`);
  }
}
