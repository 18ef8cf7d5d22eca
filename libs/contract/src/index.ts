/**
 * The contract: generated code and the method options read as data.
 *
 *   agent.ts agents.ts audit.ts clusters.ts commands.ts deployments.ts
 *   identity.ts installation.ts instances.ts options.ts products.ts stacks.ts   one per package of proto/bowline
 *   services.ts                            every service, for servers and documents
 *   access.ts                              who may call a method, what REST answers
 */
export * from "./access.ts";
export * from "./services.ts";
