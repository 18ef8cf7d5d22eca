/**
 * Image registries of organisations: with which credential their places pull.
 *
 *   rpc.ts      RegistryService               credentials.ts  sealed to an agent
 *   queries.ts  rows, found by id or host
 *
 * R1: a password is in a row only encrypted, bound to its registry.
 * R2: a password leaves the server only sealed to one agent's key (JWE), beside
 *     a spec that has an image of its registry, of the same organisation.
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { type SealedCredentials, sealCredentials } from "./credentials.ts";
import type { PublicJwk } from "@bowline/auth";
import { registerRegistries, type RegistriesPorts } from "./rpc.ts";

export type { SealedCredentials } from "./credentials.ts";

export interface Registries {
  register(router: ConnectRouter): void;
  /** See credentials.ts. */
  seal(organisationId: string, hosts: readonly string[], key: PublicJwk): Promise<SealedCredentials>;
}

export function createRegistries(ports: RegistriesPorts): Registries {
  return {
    register: (router) => registerRegistries(router, ports),
    seal: (organisationId, hosts, key) => sealCredentials(ports, organisationId, hosts, key),
  };
}
