/** This build's version, from its package. */
import manifest from "../package.json" with { type: "json" };

export const agentVersion: string = manifest.version;

/** Versions of the agent protocol that this build speaks; they decide, not its own version. */
export const protocol = { min: 1, max: 1 } as const;
