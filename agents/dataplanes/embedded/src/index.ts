/** The embedded data plane: a gateway's proxy in the agent's own process. */
export {};
