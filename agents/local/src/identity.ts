/**
 * Who this runtime is: the machine, and the data folder that it works in.
 */
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readDurable, writeDurably } from "@bowline/agent-core/runtimes";

export interface FolderIdentity {
  /** 32 hexadecimal digits, made with the folder. */
  id: string;
  /** Key for digests of secrets, so that a digest on disk tells nothing about a short secret. */
  digestKey: string;
}

/** Reads the data folder's identity; makes one for a new folder. */
export async function folderIdentity(dataDir: string): Promise<FolderIdentity> {
  const path = join(dataDir, "runtime.json");
  const stored = await readDurable(path);
  if (stored !== undefined) {
    if (!isFolderIdentity(stored)) throw new Error(`${path} is not a runtime's identity`);
    return stored;
  }
  const fresh = { id: randomBytes(16).toString("hex"), digestKey: randomBytes(32).toString("hex") };
  await writeDurably(path, fresh);
  return fresh;
}

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

function isFolderIdentity(value: unknown): value is FolderIdentity {
  return (
    typeof value === "object" &&
    value !== null &&
    "id" in value &&
    typeof value.id === "string" &&
    "digestKey" in value &&
    typeof value.digestKey === "string"
  );
}
