/** Secrets of organisations; a part of tables.ts. */
import type { Generated } from "kysely";

export interface SecretsTable {
  id: string;
  organisation_id: string;
  name: string;
  version: number;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface SecretVersionsTable {
  secret_id: string;
  version: number;
  value_encrypted: Buffer;
  created_at: Generated<Date>;
}
