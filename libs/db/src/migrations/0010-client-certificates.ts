/**
 * The client certificate to which an agent is bound. Only adds: a server of the
 * schema before asks for none, and binds none to those that it enrols.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  // `sha256:` and the certificate's thumbprint; empty: not bound yet.
  await sql.raw(`ALTER TABLE agents ADD COLUMN client_certificate text NOT NULL DEFAULT ''`).execute(db);
}
