/**
 * Secrets of organisations: values that go to their places and nowhere else.
 *
 *   rpc.ts      SecretService                values.ts  encrypted at rest, sealed on the way
 *   queries.ts  rows, found by id or name
 *
 * V1: a value is in a row only encrypted, bound to its secret and version.
 * V2: a value leaves the server only sealed to one agent's key (JWE).
 * V3: a version that something published, or a command that has not ended, is made with stays.
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { keyedHash } from "@bowline/auth";
import type { Tx } from "../platform/transactions.ts";
import { registerSecrets, type SecretsPorts } from "./rpc.ts";
import {
  dropGiven,
  givenVersions,
  keepValue,
  plannedVersions,
  resolveHeaders,
  resolveVersions,
  type Sealed,
  sealFor,
  type SealingKey,
} from "./values.ts";

export type { Sealed } from "./values.ts";

export interface Secrets {
  register(router: ConnectRouter): void;
  /** See values.ts. */
  resolve: typeof resolveVersions;
  /** See values.ts. */
  resolveHeaders: typeof resolveVersions;
  /** See values.ts. */
  keep: (tx: Tx, stack: { id: string; organisation_id: string }, name: string, value: Uint8Array) => Promise<void>;
  /** See values.ts. */
  planned: (tx: Tx, stackId: string, values: ReadonlyMap<string, Uint8Array>) => Promise<Record<string, string>>;
  /** See values.ts. */
  given: typeof givenVersions;
  /** See values.ts. */
  dropGiven: typeof dropGiven;
  /** HMAC with a key that is kept outside the database: equal texts are seen, none is told. */
  keyedHash: (text: string) => Uint8Array;
  /** Values by name, each sealed to that key, or which cannot be read; `versions` as `resolve` gave them. */
  seal(versions: Readonly<Record<string, string>>, key: SealingKey): Promise<Sealed>;
}

export function createSecrets(ports: SecretsPorts): Secrets {
  return {
    register: (router) => registerSecrets(router, ports),
    resolve: resolveVersions,
    resolveHeaders: (tx, organisationId, names) =>
      resolveHeaders({ tx, encryption: ports.encryption }, organisationId, names),
    keep: (tx, stack, name, value) => keepValue({ tx, encryption: ports.encryption }, stack, name, value),
    planned: (tx, stackId, values) => plannedVersions({ tx, encryption: ports.encryption }, stackId, values),
    given: givenVersions,
    dropGiven,
    keyedHash: (text) => keyedHash(ports.encryption, text, "requests"),
    seal: (versions, key) => sealFor(ports, versions, key),
  };
}
