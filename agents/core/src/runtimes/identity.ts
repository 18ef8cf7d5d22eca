/** Who a data folder is: made with it, and never changed. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { readDurable, writeDurably } from "./durable.ts";

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
