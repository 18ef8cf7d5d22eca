/**
 * Which version of the forwarder this agent starts: a hash of what it consists
 * of, so that an update of the agent replaces forwarders where, and only where,
 * something of theirs has changed.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const sources = fileURLToPath(new URL("../../../../forwarder/src", import.meta.url));
/** What it has of the core's. */
const shared = fileURLToPath(new URL("document.ts", import.meta.url));

let known: string | undefined;

/** Of the files as they are when it is first asked for. */
export function forwarderBuild(): string {
  return (known ??= hashed());
}

function hashed(): string {
  const names = readdirSync(sources).filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"));
  const hash = createHash("sha256").update(process.version);
  for (const path of [...names.sort().map((name) => join(sources, name)), shared]) hash.update(readFileSync(path));
  return hash.digest("hex").slice(0, 16);
}
