/**
 * Who this agent is: its keys, what the server called it, and the counter of
 * its assertions, all in its data folder.
 */
import { join } from "node:path";
import { makePrivateFolder, readPrivateFile, writePrivateFile } from "@bowline/auth";
import { type KeyStore, openKeyStore } from "./keys.ts";

/** What enrolment gave; written as `agent.json`. */
export interface Enrolled {
  agentId: string;
  name: string;
  clusterId: string;
  cluster: string;
  installationId: string;
  /** The URL that it enrolled at. */
  server: string;
}

export interface Identity {
  keys: KeyStore;
  /** Undefined until it enrolled. */
  enrolled(): Promise<Enrolled | undefined>;
  keep(enrolled: Enrolled): Promise<void>;
  /** A counter above every one before, on the disk before it is used, so that a restart never repeats one. */
  nextCounter(floor?: number): Promise<number>;
}

/** Loads the keys in `dataDir`, or makes both (mode 0700 and 0600). */
export async function loadIdentity(dataDir: string, now: () => number = Date.now): Promise<Identity> {
  await makePrivateFolder(dataDir);
  const stateFile = join(dataDir, "agent.json");
  const counterFile = join(dataDir, "assertion-counter");
  const kept = Number((await readPrivateFile(counterFile)) ?? 0);
  let last = Number.isSafeInteger(kept) ? kept : 0; // The clock alone is above it, or the server tells the floor.
  return {
    keys: await openKeyStore(dataDir),
    async enrolled() {
      const text = await readPrivateFile(stateFile);
      if (text === undefined) return undefined;
      try {
        const enrolled = JSON.parse(text) as Enrolled;
        if (typeof enrolled.agentId === "string" && typeof enrolled.installationId === "string") return enrolled;
      } catch {
        // Said below: not JSON is one way of not being an agent's state.
      }
      throw new Error(`${stateFile} is not the state of an agent; remove it to enrol anew`);
    },
    keep: (enrolled) => writePrivateFile(stateFile, `${JSON.stringify(enrolled, null, 2)}\n`),
    async nextCounter(floor = 0) {
      // The clock as a floor: a folder restored from an older copy goes on above what it has forgotten.
      last = Math.max(last, floor, now()) + 1;
      await writePrivateFile(counterFile, String(last));
      return last;
    },
  };
}
