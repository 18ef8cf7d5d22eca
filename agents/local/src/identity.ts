/**
 * Who this runtime is: the machine, and the data folder that it works in.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { FolderIdentity } from "@bowline/agent-core/runtimes";

/**
 * The same over restarts of agent and host, another for a copied folder on
 * another machine. The machine id is hashed, as machine-id(5) asks.
 */
export async function runtimeIdentity(folder: FolderIdentity): Promise<string> {
  let machine = "";
  try {
    machine = (await readFile("/etc/machine-id", "utf8")).trim();
  } catch {
    // Minimal images have none: then the folder alone is the identity.
  }
  const hash = createHash("sha256").update(`bowline-local:${machine}`).digest("hex").slice(0, 16);
  return `local:${hash}:${folder.id}`;
}
