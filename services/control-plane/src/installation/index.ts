/**
 * The installation and the history of its database.
 *
 *   restored.ts  another history begins: incarnation, keys, tokens, the hold
 *   revocations.ts  who was shut out since the backup, where it is known
 *   rpc.ts       InstallationService: what it is, and the end of the hold
 */
export { dispatchHeld, type InstallationPorts, registerInstallation } from "./rpc.ts";
export { markRestored, markRestoredIn, type Restored } from "./restored.ts";
export { readRevocations, type Revocations, revokeAgain } from "./revocations.ts";
