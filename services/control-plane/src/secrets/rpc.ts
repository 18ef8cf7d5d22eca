/** SecretService. Values come in and are never answered, nor in what is audited. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import type { EncryptionKey } from "@bowline/auth";
import {
  type CreateSecretRequest,
  type DeleteSecretRequest,
  ListSecretsResponseSchema,
  type Secret,
  SecretSchema,
  SecretService,
  type SetSecretValueRequest,
} from "@bowline/contract/secrets";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { refuseWhileUsed } from "../deployments/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf } from "../platform/context.ts";
import { etagOf, guardEtag } from "../platform/etags.ts";
import type { Events } from "../platform/events.ts";
import { uniqueViolation } from "../platform/problems.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { findSecret, listSecrets, type SecretRow } from "./queries.ts";
import { writeValue } from "./values.ts";

export interface SecretsPorts {
  db: Db;
  events: Events;
  encryption: EncryptionKey;
}

export function registerSecrets(router: ConnectRouter, ports: SecretsPorts): void {
  router.service(SecretService, {
    listSecrets: async (request, context) => {
      const page = await listSecrets(ports.db, callerOf(context).principal, request);
      return create(ListSecretsResponseSchema, { ...page, secrets: page.rows.map(secretOf) });
    },
    getSecret: async (request, context) =>
      secretOf(await findSecret(ports.db, callerOf(context).principal, request.id)),
    createSecret: (request, context) => createSecret(ports, callerOf(context), request),
    setSecretValue: (request, context) => setSecretValue(ports, callerOf(context), request),
    deleteSecret: async (request, context) => {
      await deleteSecret(ports, callerOf(context), request);
      return create(EmptySchema);
    },
  });
}

async function createSecret(ports: SecretsPorts, caller: Caller, request: CreateSecretRequest): Promise<Secret> {
  const { organisationId } = caller.principal;
  const value = valueOf(request);
  try {
    return await transact(ports.db, async (work) => {
      const row = await work.tx
        .insertInto("secrets")
        .values({ id: newId("secret"), organisation_id: organisationId, name: request.name, version: 1 })
        .returningAll()
        .executeTakeFirstOrThrow();
      await writeValue(work.tx, ports.encryption, row.id, row.version, value);
      await note(ports, work, caller, "secret.create", row);
      return secretOf(row);
    });
  } catch (error) {
    if (uniqueViolation(error) === undefined) throw error;
    throw problem("ALREADY_EXISTS", `There is another secret named ${request.name}.`, { cause: error });
  }
}

async function setSecretValue(ports: SecretsPorts, caller: Caller, request: SetSecretValueRequest): Promise<Secret> {
  const value = valueOf(request);
  return transact(ports.db, async (work) => {
    const before = await findSecret(work.tx, caller.principal, request.id, true);
    guardEtag(request.etag, before.version);
    const row = await work.tx
      .updateTable("secrets")
      .set({ version: before.version + 1, updated_at: sql`now()` })
      .where("id", "=", before.id)
      .returningAll()
      .executeTakeFirstOrThrow();
    await writeValue(work.tx, ports.encryption, row.id, row.version, value);
    await note(ports, work, caller, "secret.set-value", row);
    return secretOf(row);
  });
}

/** Text or bytes. Throws INVALID_ARGUMENT where there is neither, or both. */
function valueOf({ value, data }: Pick<CreateSecretRequest, "value" | "data">): Uint8Array {
  if ((value === "") === (data.length === 0)) {
    const description = "Set the value as text, or as bytes in data; one of them, and not empty.";
    throw problem("INVALID_ARGUMENT", description, { violations: [{ field: "value", description }] });
  }
  return value === "" ? data : Buffer.from(value);
}

async function deleteSecret(ports: SecretsPorts, caller: Caller, request: DeleteSecretRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const row = await findSecret(work.tx, caller.principal, request.id, true);
    guardEtag(request.etag, row.version);
    if (!request.force) await refuseWhileUsed(work.tx, { secretId: row.id }, "SECRET_IN_USE", `The secret ${row.name}`);
    await work.tx.deleteFrom("secrets").where("id", "=", row.id).execute();
    await note(ports, work, caller, "secret.delete", row, "before");
  });
}

async function note(
  ports: SecretsPorts,
  work: Parameters<typeof audit>[1],
  caller: Caller,
  action: string,
  row: SecretRow,
  when: "before" | "after" = "after",
): Promise<void> {
  await audit(ports.events, work, caller, {
    action,
    resourceKind: "secret",
    resourceId: row.id,
    organisationId: row.organisation_id,
    [when]: toJson(SecretSchema, secretOf(row)),
  });
}

function secretOf(row: SecretRow): Secret {
  return create(SecretSchema, {
    id: row.id,
    name: row.name,
    version: row.version,
    etag: etagOf(row.version),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
  });
}
