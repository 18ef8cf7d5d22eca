import { expect, test } from "@jest/globals";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  AuthService,
  OrganisationService,
  ServiceAccount_State,
  ServiceAccountService,
} from "@bowline/contract/identity";
import { Role } from "@bowline/contract/options";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { createEvents } from "../platform/events.ts";
import { inProcess, reasonOf } from "../platform/in-process.ts";
import { bootstrap, createIdentity, resetAdminToken } from "./index.ts";

async function start() {
  const database = await testDatabase();
  const { db } = database;
  const events = createEvents(db, { error: () => {} });
  const identity = createIdentity({ db, events, serverVersion: "0.1.0" });
  const written: string[] = [];
  const ports = { events, writeAdminToken: async (token: string) => void written.push(token) };
  const first = await bootstrap(db, ports);
  const api = inProcess(identity.register, identity);
  const admin = written[0] ?? "";
  const account = async (role: Role, options: { ttlMs?: number; organisationId?: string; by?: string } = {}) =>
    api.as(ServiceAccountService, options.by ?? admin).createServiceAccount({
      name: `a${Math.random().toString(36).slice(2)}`,
      role,
      organisationId: options.organisationId ?? "",
      ...(options.ttlMs === undefined ? {} : { ttl: durationFromMs(options.ttlMs) }),
    });
  return { db, api, admin, account, first, written, ports };
}

test("the first start writes one admin token; a second start and a race write none", async () => {
  const { db, first, written, ports } = await start();
  const again = await Promise.all([bootstrap(db, ports), bootstrap(db, ports)]);
  expect(first.first).toBe(true);
  for (const { first: isFirst, installationId } of again) {
    expect([isFirst, installationId]).toEqual([false, first.installationId]);
  }
  expect(written).toHaveLength(1);
});

test("of several replicas that start at once on an empty database one makes the installation", async () => {
  const { db } = await testDatabase();
  const events = createEvents(db, { error: () => {} });
  const written: string[] = [];
  const ports = { events, writeAdminToken: async (token: string) => void written.push(token) };
  const all = await Promise.all([bootstrap(db, ports), bootstrap(db, ports), bootstrap(db, ports)]);
  expect(all.filter(({ first }) => first)).toHaveLength(1);
  expect(new Set(all.map(({ installationId }) => installationId)).size).toBe(1);
  expect(written).toHaveLength(1);
});

test("a first start whose token cannot be written leaves nothing, and the next one does it", async () => {
  const { db } = await testDatabase();
  const events = createEvents(db, { error: () => {} });
  const full = { events, writeAdminToken: () => Promise.reject(new Error("disk full")) };
  await expect(bootstrap(db, full)).rejects.toThrow("disk full");
  const written: string[] = [];
  const second = await bootstrap(db, { events, writeAdminToken: async (token) => void written.push(token) });
  expect([second.first, written.length]).toEqual([true, 1]);
});

test("resetting the admin token ends the one before", async () => {
  const { api, admin, written, ports, db } = await start();
  await resetAdminToken(db, ports);
  expect(await reasonOf(api.as(AuthService, admin).getMe({}))).toBe("UNAUTHENTICATED");
  expect((await api.as(AuthService, written[1]).getMe({})).role).toBe(Role.ADMIN);
});

test("GetMe tells who calls", async () => {
  const { api, admin, first } = await start();
  expect(await api.as(AuthService, admin).getMe({})).toMatchObject({
    kind: "service-account",
    name: "admin",
    role: Role.ADMIN,
    organisation: "default",
    installationId: first.installationId,
    serverVersion: "0.1.0",
  });
});

test("what is not a live token is refused, and a wrong secret like an unknown id", async () => {
  const { api, admin, account } = await start();
  const me = (token?: string) => reasonOf(api.as(AuthService, token).getMe({}));
  const wrong = `${admin.slice(0, -3)}${admin.endsWith("AAA") ? "BBB" : "AAA"}`;
  for (const token of [undefined, "x", "bwt_", admin.slice(0, -1), `${admin}A`, wrong, admin.replace("bwt_", "bwr_")]) {
    expect([token, await me(token)]).toEqual([token, "UNAUTHENTICATED"]);
  }
  const { token, id } = await account(Role.VIEWER);
  expect(await me(token)).toBe("ok");
  await api.as(ServiceAccountService, admin).revokeServiceAccount({ id });
  expect(await me(token)).toBe("UNAUTHENTICATED");
});

test("an expired token is told apart, and gives its name free", async () => {
  const { api, admin, account, db } = await start();
  const old = await account(Role.OPERATOR);
  await db
    .updateTable("service_accounts")
    .set({ expires_at: sql<Date>`now()` })
    .where("id", "=", old.id)
    .execute();
  expect(await reasonOf(api.as(AuthService, old.token).getMe({}))).toBe("TOKEN_EXPIRED");
  const client = api.as(ServiceAccountService, admin);
  expect((await client.getServiceAccount({ id: old.id })).state).toBe(ServiceAccount_State.EXPIRED);
  expect((await client.createServiceAccount({ name: old.name, role: Role.VIEWER })).state).toBe(
    ServiceAccount_State.ACTIVE,
  );
});

test("a token is shown once and stored nowhere: not in the list, the audit trail, or the row", async () => {
  const { api, admin, account, db } = await start();
  const { id, token } = await account(Role.PROVIDER);
  const listed = await api.as(ServiceAccountService, admin).listServiceAccounts({});
  expect(listed.serviceAccounts.map((each) => each.token)).toEqual(["", ""]);
  const secret = token.split("_").slice(2).join("_");
  for (const table of ["service_accounts", "audit_events", "idempotency_keys"] as const) {
    const { rows } = await sql<{ text: string }>`SELECT t::text AS text FROM ${sql.table(table)} t`.execute(db);
    expect(rows.some(({ text }) => text.includes(secret))).toBe(false);
  }
  const events = await db.selectFrom("audit_events").selectAll().where("resource_id", "=", id).execute();
  expect(events.map((event) => [event.action, event.principal])).toEqual([["service-account.create", "admin"]]);
});

test("an operator grants operator and below, and neither grants nor revokes admin", async () => {
  const { api, admin, account } = await start();
  const operator = await account(Role.OPERATOR);
  expect(await reasonOf(account(Role.ADMIN, { by: operator.token }))).toBe("ROLE_ABOVE_OWN");
  for (const role of [Role.OPERATOR, Role.PROVIDER, Role.CUSTOMER, Role.VIEWER]) {
    expect(await reasonOf(account(role, { by: operator.token }))).toBe("ok");
  }
  const adminId = (await api.as(AuthService, admin).getMe({})).id;
  expect(await reasonOf(api.as(ServiceAccountService, operator.token).revokeServiceAccount({ id: adminId }))).toBe(
    "ROLE_ABOVE_OWN",
  );
});

test("a provider, a customer and a viewer may do nothing with people", async () => {
  const { api, account } = await start();
  for (const role of [Role.PROVIDER, Role.CUSTOMER, Role.VIEWER]) {
    const { token } = await account(role);
    expect(await reasonOf(account(Role.VIEWER, { by: token }))).toBe("PERMISSION_DENIED");
    expect(await reasonOf(api.as(OrganisationService, token).listOrganisations({}))).toBe("PERMISSION_DENIED");
    expect(await reasonOf(api.as(AuthService, token).getMe({}))).toBe("ok");
  }
});

test("names are unique; the same request id gets the same answer, another body a conflict", async () => {
  const { api, admin, account } = await start();
  const client = api.as(OrganisationService, admin);
  const create = (name: string, requestId = "") => client.createOrganisation({ organisation: { name }, requestId });
  const one = await create("acme", "key-1");
  expect((await create("acme", "key-1")).id).toBe(one.id);
  expect(await reasonOf(create("other", "key-1"))).toBe("IDEMPOTENCY_CONFLICT");
  expect(await reasonOf(create("acme"))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(create(""))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(create("Ä"))).toBe("INVALID_ARGUMENT");
  expect((await client.getOrganisation({ id: "acme" })).id).toBe(one.id);
  expect(await reasonOf(client.getOrganisation({ id: "nobody" }))).toBe("NOT_FOUND");
  expect(await reasonOf(client.getOrganisation({ id: "a\0b" }))).toBe("INVALID_ARGUMENT");
  expect((await account(Role.PROVIDER, { organisationId: "acme" })).organisationId).toBe(one.id);
  expect(await reasonOf(account(Role.PROVIDER, { organisationId: "nobody" }))).toBe("NOT_FOUND");
});

test("lists come in pages without gaps", async () => {
  const { api, admin } = await start();
  const client = api.as(OrganisationService, admin);
  for (const name of ["e", "d", "c", "b"]) await client.createOrganisation({ organisation: { name } });
  const names: string[] = [];
  let pageToken = "";
  do {
    const page = await client.listOrganisations({ pageSize: 2, pageToken, returnTotalSize: true });
    expect(page.totalSize).toBe(5);
    names.push(...page.organisations.map((each) => each.name));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  expect(names).toEqual(["b", "c", "d", "default", "e"]);
  expect(await reasonOf(client.listOrganisations({ pageToken: "nonsense" }))).toBe("PAGE_TOKEN_INVALID");
});

test("the last use is kept to the minute", async () => {
  const { api, admin, account } = await start();
  const { id, token } = await account(Role.VIEWER);
  await api.as(AuthService, token).getMe({});
  await api.as(AuthService, token).getMe({});
  const { lastUsedAt } = await api.as(ServiceAccountService, admin).getServiceAccount({ id });
  expect(Number(lastUsedAt?.seconds) % 60).toBe(0);
});
