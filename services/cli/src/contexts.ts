/**
 * Named contexts: which server, and the token for it. Kept in
 * `~/.config/bowline/config.json`, mode 0600.
 *
 * X1: the file is never readable by others, not even while it is written.
 * X2: it is replaced whole; a crash leaves the old or the new one.
 */
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { usage } from "./failure.ts";

export type Context = {
  url: string;
  token: string;
  /** PEM of whom to trust for it, where that is not the system's choice. */
  ca?: string;
};

export type Contexts = {
  /** The one that is used where none is named. */
  current: string | undefined;
  contexts: Record<string, Context>;
};

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** Fails unless `name` can be a context's name. */
export function checkContextName(name: string): void {
  if (!namePattern.test(name)) throw usage(`"${name}" is not a name for a context: letters, digits, ".", "_", "-"`);
}

/** Reads the contexts; none where there is no file. */
export async function readContexts(file: string): Promise<Contexts> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { current: undefined, contexts: {} };
    throw usage(`cannot read ${file}: ${(error as Error).message}`, { cause: error });
  }
  try {
    return understand(JSON.parse(text));
  } catch (error) {
    throw usage(`${file} is not what "bowline login" writes: ${(error as Error).message}`, {
      lines: ["Mend it, or remove it and sign in again."],
      cause: error,
    });
  }
}

/** Writes the contexts. */
export async function writeContexts(file: string, contexts: Contexts): Promise<void> {
  const next = `${file}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    await writeFile(next, `${JSON.stringify(contexts, null, 2)}\n`, { mode: 0o600, flag: "wx" }); // X1
    await chmod(next, 0o600);
    await rename(next, file); // X2
  } catch (error) {
    await rm(next, { force: true }).catch(() => {}); // the first error is the one to tell
    throw usage(`cannot write ${file}: ${(error as Error).message}`, { cause: error });
  }
}

function understand(value: unknown): Contexts {
  const { current, contexts } = object(value, "the document");
  const read = new Map<string, Context>();
  for (const [name, entry] of Object.entries(object(contexts, '"contexts"'))) {
    const { url, token, ca } = object(entry, `context "${name}"`);
    if (typeof url !== "string" || typeof token !== "string") throw new Error(`context "${name}" has no url or token`);
    read.set(name, { url, token, ...(typeof ca === "string" ? { ca } : {}) });
  }
  const chosen = typeof current === "string" && read.has(current) ? current : undefined;
  return { current: chosen, contexts: Object.fromEntries(read) };
}

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`${what} is not an object`);
  return value as Record<string, unknown>;
}
