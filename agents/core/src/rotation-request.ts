/**
 * How somebody on the host asks the running agent for new keys: a file in its
 * data folder. Whoever may write there has the keys anyway; and it works in a
 * container, without knowing the agent's pid.
 */
import { chown, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { readPrivateFile, writePrivateFile } from "@bowline/auth";

export type RotationRequest =
  /** `key`: thumbprint of the signing key that is to be replaced. Where it is the agent's no more, that was done. */
  | { state: "asked"; key: string }
  /** The server said no; it stays until somebody asks again. */
  | { state: "refused"; reason: string; message: string };

const fileOf = (dataDir: string): string => join(dataDir, "rotate-key.json");

/** Undefined: nobody has asked. */
export async function readRequest(dataDir: string): Promise<RotationRequest | undefined> {
  const text = await readPrivateFile(fileOf(dataDir));
  if (text === undefined) return undefined;
  try {
    const { state, reason, message, key } = JSON.parse(text) as Record<string, unknown>;
    if (state === "refused") return { state, reason: String(reason), message: String(message) };
    return { state: "asked", key: String(key) };
  } catch {
    return { state: "asked", key: "" }; // Not what this program writes: it asks for nothing that is left to do.
  }
}

/** Asks. The file belongs to the folder's owner, whoever asks: the agent may run as another user than root. */
export async function askForRotation(dataDir: string, key: string): Promise<void> {
  const { uid, gid } = await stat(dataDir);
  const asking = `${fileOf(dataDir)}.asking`; // until it is the owner's, who looks at any moment
  await writePrivateFile(asking, `${JSON.stringify({ state: "asked", key } satisfies RotationRequest)}\n`);
  if (process.getuid?.() === 0 && uid !== 0) await chown(asking, uid, gid);
  await rename(asking, fileOf(dataDir));
}

/** What was asked for has been done. */
export async function settleRequest(dataDir: string): Promise<void> {
  await rm(fileOf(dataDir), { force: true });
}

/** Answers whoever asked, if somebody did. */
export async function refuseRequest(dataDir: string, why: { reason: string; message: string }): Promise<void> {
  if ((await readRequest(dataDir)) === undefined) return;
  await writePrivateFile(
    fileOf(dataDir),
    `${JSON.stringify({ state: "refused", ...why } satisfies RotationRequest)}\n`,
  );
}
