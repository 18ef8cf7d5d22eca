import { expect, test } from "@jest/globals";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  Cluster_State,
  ClusterService,
  RegistrationToken_State,
  RegistrationTokenService,
} from "@bowline/contract/clusters";
import { OrganisationService, ServiceAccountService } from "@bowline/contract/identity";
import { Role } from "@bowline/contract/options";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { bootstrap, createIdentity } from "../identity/index.ts";
import type { Principal } from "../platform/context.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess, reasonOf } from "../platform/in-process.ts";
import { transact } from "../platform/transactions.ts";
import { createClusters, lockClusterForPublish } from "./index.ts";

async function start() {
  const { db } = await testDatabase();
  const log = { error: () => {} };
  const events = createEvents(db, log);
  const identity = createIdentity({ db, events, serverVersion: "0.1.0" });
  const clusters = createClusters({
    db,
    events,
    publicUrl: () => "https://bowline.example.com",
    serverVersion: "0.1.0",
    countAgents: () => Promise.resolve(new Map()),
    rekeyable: async () => {
      throw new Error("not asked");
    },
    residents: [],
    log,
  });
  let admin = "";
  await bootstrap(db, { events, writeAdminToken: async (token) => void (admin = token) });
  const api = inProcess((router) => {
    identity.register(router);
    clusters.register(router);
  }, identity);
  const organisation = (name: string) =>
    api.as(OrganisationService, admin).createOrganisation({ organisation: { name } });
  let accounts = 0;
  const account = async (role: Role, organisationId = ""): Promise<string> => {
    accounts += 1;
    const made = await api
      .as(ServiceAccountService, admin)
      .createServiceAccount({ name: `a${accounts}`, role, organisationId });
    return made.token;
  };
  const operator = api.as(ClusterService, admin);
  const tokens = api.as(RegistrationTokenService, admin);
  const create = (name: string, more: object = {}) =>
    operator.createCluster({ cluster: { name, runtime: "docker", ...more } });
  return { db, api, admin, operator, tokens, create, organisation, account, identity };
}

test("a cluster is found by id and by name, and has no agent at first", async () => {
  const { operator, create } = await start();
  const made = await create("factory-7", { region: "eu", labels: { line: "2" } });
  expect(made).toMatchObject({ name: "factory-7", isActive: true, state: Cluster_State.NO_AGENT, etag: "1" });
  for (const id of [made.id, "factory-7"]) expect((await operator.getCluster({ id })).labels).toEqual({ line: "2" });
  expect(await reasonOf(operator.getCluster({ id: "factory-8" }))).toBe("NOT_FOUND");
});

test("a name is unique; name and runtime are required; a repeated request gets the same cluster", async () => {
  const { operator, create } = await start();
  const request = { cluster: { name: "one", runtime: "local" }, requestId: "r1" };
  expect((await operator.createCluster(request)).id).toBe((await operator.createCluster(request)).id);
  const keyed = { headers: { "idempotency-key": "r2" } };
  const again = { cluster: { name: "by-header", runtime: "local" } };
  expect((await operator.createCluster(again, keyed)).id).toBe((await operator.createCluster(again, keyed)).id);
  const other = operator.createCluster({ cluster: { name: "another", runtime: "local" } }, keyed);
  expect(await reasonOf(other)).toBe("IDEMPOTENCY_CONFLICT");
  expect(await reasonOf(create("one"))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(create(""))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(create("two", { runtime: "" }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(create("two", { runtime: "vm" }))).toBe("INVALID_ARGUMENT");
});

test("an update changes what its mask names; unknown paths and another runtime are refused", async () => {
  const { operator, create } = await start();
  const { id } = await create("one", { displayName: "One", region: "eu" });
  const update = (cluster: object, ...paths: string[]) =>
    operator.updateCluster({ cluster: { id, ...cluster }, updateMask: { paths } });
  expect(await update({ displayName: "Other", region: "us" }, "region")).toMatchObject({
    displayName: "One",
    region: "us",
    etag: "2",
  });
  expect(await update({}, "display_name")).toMatchObject({ displayName: "" });
  expect((await update({ policy: { allowBulkEnrolment: true } }, "policy.allow_bulk_enrolment")).policy).toMatchObject({
    allowBulkEnrolment: true,
    allowHostPaths: false,
  });
  expect(await update({ displayName: "Third" })).toMatchObject({ displayName: "Third", region: "us" });
  expect(await update({ isActive: false }, "is_active")).toMatchObject({ isActive: false });
  expect(await reasonOf(update({}, "colour"))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(update({}, "name"))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(update({ runtime: "local" }, "runtime"))).toBe("INVALID_ARGUMENT");
  const read = await operator.getCluster({ id });
  expect(await operator.updateCluster({ cluster: { ...read, region: "asia" } })).toMatchObject({ region: "asia" });
});

test("a stale etag changes nothing", async () => {
  const { operator, create } = await start();
  const { id, etag } = await create("one");
  await operator.updateCluster({ cluster: { id, region: "eu", etag } });
  expect(await reasonOf(operator.updateCluster({ cluster: { id, region: "us", etag } }))).toBe("STALE_ETAG");
  expect(await reasonOf(operator.deleteCluster({ id, etag }))).toBe("STALE_ETAG");
  expect(await operator.getCluster({ id })).toMatchObject({ region: "eu", etag: "2" });
});

test("at most one cluster is the default, also when two are made so at once", async () => {
  const { operator, create } = await start();
  await create("one", { isDefault: true });
  await Promise.all([create("two", { isDefault: true }), create("three", { isDefault: true })]);
  await operator.updateCluster({ cluster: { id: "one", isDefault: true } });
  const { clusters } = await operator.listClusters({});
  expect(clusters.filter(({ isDefault }) => isDefault).map(({ name }) => name)).toEqual(["one"]);
});

test("lists are ordered, filtered and paged without gaps", async () => {
  const { operator, create } = await start();
  for (const name of ["d", "b", "a", "c"]) await create(name, { runtime: name === "d" ? "local" : "docker" });
  const all = async (orderBy: string, runtime = "") => {
    const names: string[] = [];
    let pageToken = "";
    do {
      const page = await operator.listClusters({ pageSize: 2, pageToken, orderBy, runtime, returnTotalSize: true });
      expect(page.totalSize).toBe(runtime === "" ? 4 : 3);
      names.push(...page.clusters.map(({ name }) => name));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return names.join("");
  };
  expect(await all("")).toBe("abcd");
  expect(await all("name desc")).toBe("dcba");
  expect(await all("created_at")).toBe("dbac");
  expect(await all("created_at desc", "docker")).toBe("cab");
  expect(await reasonOf(operator.listClusters({ orderBy: "colour" }))).toBe("INVALID_ARGUMENT");
  const { nextPageToken: pageToken } = await operator.listClusters({ pageSize: 1 });
  expect(await reasonOf(operator.listClusters({ pageToken, orderBy: "name desc" }))).toBe("PAGE_TOKEN_INVALID");
});

test("providers and viewers know only of clusters that are granted to them, and change none", async () => {
  const { api, operator, create, organisation, account } = await start();
  const [acme, other] = [await organisation("acme"), await organisation("other")];
  const { id } = await create("one");
  await create("open");
  await operator.grantCluster({ id: "open", organisationId: "*" });
  const provider = api.as(ClusterService, await account(Role.PROVIDER, "acme"));
  const viewer = api.as(ClusterService, await account(Role.VIEWER, "other"));
  expect(await reasonOf(provider.getCluster({ id }))).toBe("NOT_FOUND");
  await operator.grantCluster({ id, organisationId: "acme" });
  await operator.grantCluster({ id, organisationId: other.id });
  expect((await provider.getCluster({ id })).grantedOrganisationIds).toEqual([acme.id]);
  expect((await operator.getCluster({ id })).grantedOrganisationIds).toHaveLength(2);
  await operator.ungrantCluster({ id, organisationId: "other" });
  const seen = await viewer.listClusters({ returnTotalSize: true });
  expect([seen.clusters.map(({ name }) => name), seen.totalSize]).toEqual([["open"], 1]);
  expect(await reasonOf(provider.createCluster({ cluster: { name: "x", runtime: "local" } }))).toBe(
    "PERMISSION_DENIED",
  );
  expect(await reasonOf(operator.grantCluster({ id, organisationId: "nobody" }))).toBe("NOT_FOUND");
});

test("publishing locks what is granted and active, and hears of nothing else", async () => {
  const { db, operator, create, organisation, account, identity } = await start();
  const acme = await organisation("acme");
  const token = await account(Role.PROVIDER, "acme");
  const provider = (await identity.authenticate(new Headers({ authorization: `Bearer ${token}` }))) as Principal;
  const { id } = await create("one", { policy: { allowPrivateBackends: true } });
  const lock = (principal = provider, organisationId?: string) =>
    transact(db, ({ tx }) => lockClusterForPublish(tx, "one", principal, organisationId));
  const why = async (...given: Parameters<typeof lock>) => {
    try {
      return (await lock(...given)).policy.allowPrivateBackends;
    } catch (error) {
      return (error as { reason?: string }).reason;
    }
  };
  const admin: Principal = { ...provider, role: "admin", organisationId: "org_x" };
  expect(await why()).toBe("NOT_FOUND");
  expect(await why(admin)).toBe(true);
  expect(await why(admin, acme.id)).toBe("CLUSTER_NOT_GRANTED");
  await operator.grantCluster({ id, organisationId: "acme" });
  expect(await why()).toBe(true);
  await operator.updateCluster({ cluster: { id, isActive: false }, updateMask: { paths: ["is_active"] } });
  expect(await why()).toBe("CLUSTER_INACTIVE");
  await db.updateTable("clusters").set({ deleting: true }).execute();
  expect(await why()).toBe("CLUSTER_DELETING");
});

test("a registration token is shown once, with the line that joins, and is stored nowhere", async () => {
  const { db, tokens, create } = await start();
  await create("one");
  const made = await tokens.createRegistrationToken({ clusterId: "one" });
  expect(made.token).toMatch(/^bwr_[0-9a-z]{26}_[\w-]{43}$/);
  expect(made.id).toBe(`rt_${made.token.split("_")[1]}`);
  const joining = "agent join https://bowline.example.com --runtime docker --token-file token";
  expect(made.joinCommand).toBe(`npm run -s bowline -- ${joining}`);
  expect(made.containerCommand).toContain("--env BOWLINE_SERVER=https://bowline.example.com");
  expect(made).toMatchObject({ state: RegistrationToken_State.ACTIVE, maxUses: 1, uses: 0, agentIds: [] });
  expect(Number(made.expiresAt?.seconds) - Number(made.createdAt?.seconds)).toBe(3600);
  expect(await tokens.getRegistrationToken({ id: made.id })).toMatchObject({
    ...{ token: "", joinCommand: "", containerCommand: "" },
  });
  const secret = made.token.split("_").slice(2).join("_");
  for (const table of ["registration_tokens", "audit_events"] as const) {
    const { rows } = await sql<{ text: string }>`SELECT t::text AS text FROM ${sql.table(table)} t`.execute(db);
    expect(rows.some(({ text }) => text.includes(secret))).toBe(false);
  }
});

test("a token's lines name the engine that is asked for, which is one word to a shell, and only of Docker hosts", async () => {
  const { tokens, create } = await start();
  await create("hosts");
  await create("processes", { runtime: "local" });
  const made = await tokens.createRegistrationToken({ clusterId: "hosts", dockerHost: "tcp://10.0.0.5:2376" });
  expect(made.joinCommand).toContain("--docker-host tcp://10.0.0.5:2376 --docker-cert-path certs");
  expect(made.containerCommand).toContain("DOCKER_HOST=tcp://10.0.0.5:2376");
  for (const dockerHost of ["tcp://host:2376;reboot", "unix:///$(reboot)", "unix://docker.sock", "ssh://host"])
    expect([dockerHost, await reasonOf(tokens.createRegistrationToken({ clusterId: "hosts", dockerHost }))]).toEqual([
      ...[dockerHost, "INVALID_ARGUMENT"],
    ]);
  const elsewhere = tokens.createRegistrationToken({ clusterId: "processes", dockerHost: "tcp://10.0.0.5:2376" });
  expect(await reasonOf(elsewhere)).toBe("INVALID_ARGUMENT");
});

test("tokens with several uses need the cluster's policy", async () => {
  const { tokens, create } = await start();
  await create("strict");
  await create("bulk", { policy: { allowBulkEnrolment: true } });
  const make = (clusterId: string, maxUses: number) => tokens.createRegistrationToken({ clusterId, maxUses });
  expect(await reasonOf(make("strict", 2))).toBe("BULK_ENROLMENT_NOT_ALLOWED");
  expect((await make("bulk", 100)).maxUses).toBe(100);
  expect(await reasonOf(make("bulk", 10_001))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(make("nowhere", 1))).toBe("NOT_FOUND");
});

test("a token is EXPIRED after its life, REVOKED for good, and revoking twice is no error", async () => {
  const { db, tokens, create } = await start();
  await create("one");
  const short = await tokens.createRegistrationToken({ clusterId: "one", ttl: durationFromMs(1_000) });
  await db
    .updateTable("registration_tokens")
    .set({ expires_at: sql<Date>`now()` })
    .execute();
  expect((await tokens.getRegistrationToken({ id: short.id })).state).toBe(RegistrationToken_State.EXPIRED);
  for (const _ of [1, 2]) {
    expect((await tokens.revokeRegistrationToken({ id: short.id })).state).toBe(RegistrationToken_State.REVOKED);
  }
  const newer = await tokens.createRegistrationToken({ clusterId: "one" });
  const listed = await tokens.listRegistrationTokens({ clusterId: "one" });
  expect(listed.registrationTokens.map(({ id }) => id)).toEqual([newer.id, short.id]);
  for (const ttl of [0, -5_000, 31 * 86_400_000]) {
    expect(await reasonOf(tokens.createRegistrationToken({ clusterId: "one", ttl: durationFromMs(ttl) }))).toBe(
      "INVALID_ARGUMENT",
    );
  }
});

test("a viewer reads the tokens of granted clusters only; a provider none", async () => {
  const { api, operator, tokens, create, organisation, account } = await start();
  await organisation("acme");
  const { id } = await create("one");
  const token = await tokens.createRegistrationToken({ clusterId: id });
  const viewer = api.as(RegistrationTokenService, await account(Role.VIEWER, "acme"));
  expect(await reasonOf(viewer.getRegistrationToken({ id: token.id }))).toBe("NOT_FOUND");
  expect(await reasonOf(viewer.listRegistrationTokens({ clusterId: id }))).toBe("NOT_FOUND");
  await operator.grantCluster({ id, organisationId: "acme" });
  expect((await viewer.getRegistrationToken({ id: token.id })).token).toBe("");
  const provider = api.as(RegistrationTokenService, await account(Role.PROVIDER, "acme"));
  expect(await reasonOf(provider.getRegistrationToken({ id: token.id }))).toBe("PERMISSION_DENIED");
});

test("an empty cluster is deleted at once, with its tokens and grants, and stays in the audit trail", async () => {
  const { db, operator, tokens, create } = await start();
  const { id } = await create("one");
  await operator.grantCluster({ id, organisationId: "*" });
  await tokens.createRegistrationToken({ clusterId: id });
  await operator.deleteCluster({ id: "one" });
  expect(await reasonOf(operator.getCluster({ id }))).toBe("NOT_FOUND");
  const events = await db
    .selectFrom("audit_events")
    .select("action")
    .where("resource_id", "=", id)
    .orderBy("id")
    .execute();
  expect(events.map(({ action }) => action)).toEqual(["cluster.create", "cluster.grant", "cluster.delete"]);
  expect(await reasonOf(operator.deleteCluster({ id }))).toBe("NOT_FOUND");
});
