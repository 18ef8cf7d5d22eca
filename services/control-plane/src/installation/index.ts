/**
 * The installation and the history of its database.
 *
 *   restored.ts  another history begins: incarnation, keys, tokens, the hold
 *   since.ts     what a database that a restore replaces knows since the backup
 *   revocations.ts  who was shut out since       carried-keys.ts  who got other keys since
 *   rpc.ts       InstallationService: what it is, and the end of the hold
 */
export { dispatchHeld, type InstallationPorts, registerInstallation } from "./rpc.ts";
export { markRestored, markRestoredIn, type Restored } from "./restored.ts";
export { carryKeys } from "./carried-keys.ts";
export { revokeAgain } from "./revocations.ts";
export { readSince, type Since } from "./since.ts";
