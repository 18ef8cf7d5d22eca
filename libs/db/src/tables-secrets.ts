/** Secrets and registries of organisations; a part of tables.ts. */
import type { Generated } from "kysely";

export interface SecretsTable {
  id: string;
  organisation_id: string;
  name: string;
  version: number;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
  /** The stack that it came with; empty: somebody made it. */
  stack_id: Generated<string>;
}

export interface SecretVersionsTable {
  secret_id: string;
  version: number;
  value_encrypted: Buffer;
  created_at: Generated<Date>;
}

export interface RegistriesTable {
  id: string;
  organisation_id: string;
  host: string;
  username: string;
  /** Bound to the registry's id. */
  password_encrypted: Buffer;
  description: Generated<string>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
  password_set_at: Generated<Date>;
}
