/** RegistryService. Passwords come in and are never answered, nor in what is audited. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import type { EncryptionKey } from "@bowline/auth";
import {
  type CreateRegistryRequest,
  type DeleteRegistryRequest,
  ListRegistriesResponseSchema,
  type Registry,
  RegistrySchema,
  RegistryService,
  type UpdateRegistryRequest,
} from "@bowline/contract/registries";
import { newId, problem, registryHost } from "@bowline/kernel";
import { sql } from "kysely";
import { refuseWhileUsed } from "../deployments/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf } from "../platform/context.ts";
import { etagOf, guardEtag } from "../platform/etags.ts";
import type { Events } from "../platform/events.ts";
import { updated } from "../platform/masks.ts";
import { uniqueViolation } from "../platform/problems.ts";
import { type Db, transact, type Work } from "../platform/transactions.ts";
import { encryptPassword } from "./credentials.ts";
import { findRegistry, listRegistries, type RegistryRow } from "./queries.ts";

export interface RegistriesPorts {
  db: Db;
  events: Events;
  encryption: EncryptionKey;
}

export function registerRegistries(router: ConnectRouter, ports: RegistriesPorts): void {
  router.service(RegistryService, {
    listRegistries: async (request, context) => {
      const page = await listRegistries(ports.db, callerOf(context).principal, request);
      return create(ListRegistriesResponseSchema, { ...page, registries: page.rows.map(registryMessage) });
    },
    getRegistry: async (request, context) =>
      registryMessage(await findRegistry(ports.db, callerOf(context).principal, request.id)),
    createRegistry: (request, context) => createRegistry(ports, callerOf(context), request),
    updateRegistry: (request, context) => updateRegistry(ports, callerOf(context), request),
    deleteRegistry: async (request, context) => {
      await deleteRegistry(ports, callerOf(context), request);
      return create(EmptySchema);
    },
  });
}

async function createRegistry(
  ports: RegistriesPorts,
  caller: Caller,
  request: CreateRegistryRequest,
): Promise<Registry> {
  const { username, password, description, ...given } = request.registry ?? create(RegistrySchema);
  const host = registryHost(given.host);
  if (host === undefined)
    throw wrong("host", "Write a host, or host:port, as images name it: registry.example.com:5000; no https://.");
  required({ username, password });
  const id = newId("registry");
  try {
    return await transact(ports.db, async (work) => {
      const row = await work.tx
        .insertInto("registries")
        .values({
          ...{ id, host, username, description },
          organisation_id: caller.principal.organisationId,
          password_encrypted: encryptPassword(ports.encryption, id, password),
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      await note(ports, work, caller, "registry.create", { after: row });
      return registryMessage(row);
    });
  } catch (error) {
    if (uniqueViolation(error) === undefined) throw error;
    throw problem("ALREADY_EXISTS", `There is a registry ${host} already.`, { cause: error });
  }
}

async function updateRegistry(
  ports: RegistriesPorts,
  caller: Caller,
  request: UpdateRegistryRequest,
): Promise<Registry> {
  const patch = request.registry ?? create(RegistrySchema);
  return transact(ports.db, async (work) => {
    const before = await findRegistry(work.tx, caller.principal, patch.id, true);
    guardEtag(patch.etag, before.version);
    const unset = "unset"; // so that a mask that names the password without one is seen
    const { username, password, description } = updated({
      schema: RegistrySchema,
      before: create(RegistrySchema, { ...registryMessage(before), password: unset }),
      patch: create(RegistrySchema, { ...patch, host: registryHost(patch.host) ?? patch.host }),
      mask: request.updateMask,
      changeable: ["username", "password", "description"],
      fixed: ["host"],
      at: "registry",
    });
    required({ username, password });
    const isNew = patch.password !== "" && password === patch.password;
    const row = await work.tx
      .updateTable("registries")
      .set({
        ...{ username, description, version: sql`version + 1`, updated_at: sql`now()` },
        ...(isNew
          ? {
              password_encrypted: encryptPassword(ports.encryption, before.id, password),
              password_set_at: sql`now()`,
            }
          : {}),
      })
      .where("id", "=", before.id)
      .returningAll()
      .executeTakeFirstOrThrow();
    await note(ports, work, caller, "registry.update", { before, after: row });
    return registryMessage(row);
  });
}

async function deleteRegistry(ports: RegistriesPorts, caller: Caller, request: DeleteRegistryRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const row = await findRegistry(work.tx, caller.principal, request.id, true);
    guardEtag(request.etag, row.version);
    const used = { organisationId: row.organisation_id, host: row.host };
    if (!request.force) await refuseWhileUsed(work.tx, used, "REGISTRY_IN_USE", `The registry ${row.host}`);
    await work.tx.deleteFrom("registries").where("id", "=", row.id).execute();
    await note(ports, work, caller, "registry.delete", { before: row });
  });
}

function required(fields: { username: string; password: string }): void {
  if (fields.username === "") throw wrong("username", "A registry has a user name; tokens have one too.");
  if (fields.username.includes(":")) throw wrong("username", "No registry takes a user name with a colon.");
  if (fields.password === "") throw wrong("password", "A registry has a password or token.");
}

function wrong(field: string, description: string) {
  return problem("INVALID_ARGUMENT", description, { violations: [{ field: `registry.${field}`, description }] });
}

async function note(
  ports: RegistriesPorts,
  work: Work,
  caller: Caller,
  action: string,
  rows: { before?: RegistryRow; after?: RegistryRow },
): Promise<void> {
  const row = rows.after ?? rows.before;
  const shown = Object.entries(rows).map(([when, one]) => [when, toJson(RegistrySchema, registryMessage(one))]);
  await audit(ports.events, work, caller, {
    action,
    resourceKind: "registry",
    resourceId: row?.id ?? "",
    organisationId: row?.organisation_id ?? "",
    ...(Object.fromEntries(shown) as object),
  });
}

function registryMessage(row: RegistryRow): Registry {
  return create(RegistrySchema, {
    id: row.id,
    host: row.host,
    username: row.username,
    description: row.description,
    etag: etagOf(row.version),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
    passwordSetAt: timestampFromDate(row.password_set_at),
  });
}
