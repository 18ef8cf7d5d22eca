/**
 * The installation and the history of its database.
 *
 *   restored.ts  another history begins: incarnation, keys, tokens, the hold
 *   rpc.ts       InstallationService: what it is, and the end of the hold
 */
export { dispatchHeld, type InstallationPorts, registerInstallation } from "./rpc.ts";
export { markRestored, type Restored } from "./restored.ts";
