/**
 * Credentials of registries, from who makes them to an agent's fetch, against a
 * real PostgreSQL. Above the slices, since three of them are asked.
 */
import { randomBytes } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { encryptionKey, generateKey, openSealed } from "@bowline/auth";
import { FetchedDeploymentSchema } from "@bowline/contract/agent";
import { AuditService } from "@bowline/contract/audit";
import { Deployment_Desired, WorkloadSchema } from "@bowline/contract/deployments";
import { RegistryService } from "@bowline/contract/registries";
import { newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { sql } from "kysely";
import { createAudit } from "./audit/index.ts";
import { epoch, startEngine } from "./commands/engine.fixture.ts";
import { converge } from "./commands/index.ts";
import type { Principal } from "./platform/context.ts";
import { createEvents } from "./platform/events.ts";
import { inProcess, reasonOf } from "./platform/in-process.ts";
import { transact } from "./platform/transactions.ts";
import { createRegistries } from "./registries/index.ts";
import { createFetchReader, fetchDeployments } from "./sessions/fetch.ts";

const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
const host = "registry.example.com:5000";
const password = "correct-horse-battery";

async function start() {
  const { db } = await testDatabase();
  const engine = await startEngine(db);
  const events = createEvents(db, log);
  const encryption = encryptionKey(randomBytes(32));
  const registries = createRegistries({ db, events, encryption });
  const [alpha, beta] = [newId("org"), newId("org")];
  for (const id of [alpha, beta]) await db.insertInto("organisations").values({ id, name: id }).execute();
  const api = inProcess(
    (router) => {
      registries.register(router);
      createAudit({ db, events }).register(router);
    },
    {
      authenticate: async (headers): Promise<Principal> => {
        const [role = "", organisationId = ""] = (headers.get("authorization") ?? "").replace("Bearer ", "").split("@");
        return {
          ...{ kind: "service-account", id: `sa ${role}`, name: role, organisationId, organisation: "one" },
          role: role as Principal["role"],
        };
      },
    },
  );
  const sealing = await generateKey("X25519");
  await db
    .updateTable("agents")
    .set({ sealing_key: JSON.stringify(sealing.publicJwk) })
    .execute();
  const session = await db.selectFrom("sessions").select("id").executeTakeFirstOrThrow();
  const warnings: string[] = [];
  const fetch = async (commandId: string) => {
    const { deployments = [] } = await fetchDeployments(
      {
        ...{ db, read: createFetchReader(db), misuse: { note: () => undefined } },
        sealSecrets: async () => ({ ok: true, values: {} }),
        sealRegistries: (organisationId, hosts, key) => registries.seal(organisationId, hosts, key),
        warn: (details) => void warnings.push(JSON.stringify(details)),
      },
      { agentId: engine.agentId, sessionId: session.id, epoch },
      { items: [{ commandId, attempt: 1 }] },
    );
    const found = create(FetchedDeploymentSchema, deployments[0] ?? {});
    const opened: Record<string, unknown> = {};
    for (const [name, sealed] of Object.entries(found.sealedRegistries))
      opened[name] = JSON.parse(Buffer.from(await openSealed(sealing.privateJwk, sealed)).toString());
    return { ...found, opened };
  };
  return {
    ...{ db, engine, alpha, beta, fetch, warnings },
    provider: api.as(RegistryService, `provider@${alpha}`),
    other: api.as(RegistryService, `provider@${beta}`),
    auditOf: () => api.as(AuditService, `admin@${alpha}`).listAuditEvents({}),
    deploy: async (
      images: string[],
      deploymentId?: string,
      desired: Deployment_Desired = Deployment_Desired.RUNNING,
    ) => {
      const workloads = images.map((image, index) => create(WorkloadSchema, { name: `w${index}`, image }));
      const wish = { ...engine.wish(deploymentId), organisationId: alpha, build: () => ({ desired, workloads }) };
      const [enqueued] = await transact(db, (work) => converge(engine.ports, work, [wish]));
      if (enqueued === undefined) throw new Error("nothing was enqueued");
      await engine.claimOne();
      return enqueued;
    },
  };
}

test("a fetch brings the organisation's credentials of the images' hosts as they are then, beside the same bytes", async () => {
  const { provider, other, deploy, fetch } = await start();
  await other.createRegistry({ registry: { host: "docker.io", username: "beta", password: "theirs" } });
  const { commandId } = await deploy(["web:1", `${host}/team/app@sha256:ab`, "other.example.com/app"]);
  const { opened, digest } = await fetch(commandId);
  expect(opened).toEqual({});
  const made = await provider.createRegistry({ registry: { host: host.toUpperCase(), username: "ci", password } });
  await provider.createRegistry({ registry: { host: "index.docker.io", username: "team", password: "hub" } });
  const hub = { username: "team", password: "hub" };
  expect(await fetch(commandId)).toMatchObject({
    digest,
    opened: { [host]: { username: "ci", password }, "docker.io": hub },
  });
  await provider.updateRegistry({ registry: { id: host, password: "another", etag: made.etag } });
  const fetched = await fetch(commandId);
  expect(fetched).toMatchObject({ digest, opened: { [host]: { username: "ci", password: "another" } } });
  expect(Buffer.from(fetched.spec).includes("another")).toBe(false);
});

test("a password is in no answer, no row and no audit event, and what it is for is", async () => {
  const { db, provider, auditOf } = await start();
  const registry = { host, username: "ci", password, description: "builds" };
  const created = await provider.createRegistry({ registry });
  // An hour ago: a fast machine renews it within the millisecond that the API tells.
  await db
    .updateTable("registries")
    .set({ password_set_at: sql<Date>`password_set_at - interval '1 hour'` })
    .execute();
  const made = await provider.getRegistry({ id: created.id });
  const changed = await provider.updateRegistry({ registry: { id: made.id, username: "ci-2" } });
  const renewed = await provider.updateRegistry({
    registry: { id: made.id, password: `${password}-2` },
    updateMask: { paths: ["password"] },
  });
  const listed = await provider.listRegistries({ returnTotalSize: true });
  expect(listed).toMatchObject({ totalSize: 1, registries: [{ host, username: "ci-2", description: "builds" }] });
  const audited = await auditOf();
  expect(audited.auditEvents.map(({ action }) => action).toSorted()).toEqual([
    "registry.create",
    "registry.update",
    "registry.update",
  ]);
  const rows = await db.selectFrom("registries").selectAll().execute();
  const told = JSON.stringify([created, made, changed, renewed, listed, audited, rows], (_, value: unknown) =>
    typeof value === "bigint" ? String(value) : value,
  );
  for (const text of [password, Buffer.from(password).toString("base64").slice(0, -4)])
    expect(told).not.toContain(text);
  expect(changed.passwordSetAt).toEqual(made.passwordSetAt);
  expect(renewed.passwordSetAt).not.toEqual(made.passwordSetAt);
});

test("what is missing, wrong, taken, stale or another organisation's is refused", async () => {
  const { provider, other } = await start();
  const registry = { host, username: "ci", password };
  const made = await provider.createRegistry({ registry });
  const reasons = async (calls: Promise<unknown>[]) => Promise.all(calls.map((call) => reasonOf(call)));
  expect(
    await reasons([
      provider.createRegistry({ registry }),
      provider.createRegistry({ registry: { ...registry, host: `https://${host}` } }),
      provider.createRegistry({ registry: { ...registry, host: "other.example", password: "" } }),
      provider.createRegistry({ registry: { ...registry, host: "other.example", username: "a:b" } }),
      provider.updateRegistry({ registry: { id: host }, updateMask: { paths: ["password"] } }),
      provider.updateRegistry({ registry: { id: host, host: "other.example" } }),
      provider.updateRegistry({ registry: { id: host, username: "x", etag: "7" } }),
      provider.getRegistry({ id: "registry_\0" }),
      other.getRegistry({ id: made.id }),
      other.deleteRegistry({ id: host }),
    ]),
  ).toEqual([
    "ALREADY_EXISTS",
    ...Array<string>(5).fill("INVALID_ARGUMENT"),
    "STALE_ETAG",
    ...Array<string>(3).fill("NOT_FOUND"),
  ]);
});

test("a registry whose images are deployed stays with REGISTRY_IN_USE, which names who has them, unless it is forced", async () => {
  const { provider, deploy, engine, auditOf } = await start();
  const registry = { host, username: "ci", password };
  await provider.createRegistry({ registry });
  await provider.createRegistry({ registry: { ...registry, host: "idle.example.com" } });
  const { deploymentId } = await deploy([`${host}/app`]);
  await expect(provider.deleteRegistry({ id: host })).rejects.toThrow(/in use by test owner/);
  expect(await reasonOf(provider.deleteRegistry({ id: host }))).toBe("REGISTRY_IN_USE");
  await provider.deleteRegistry({ id: "idle.example.com" });
  await provider.deleteRegistry({ id: host, force: true });
  await provider.createRegistry({ registry });
  await deploy([], deploymentId, Deployment_Desired.ABSENT);
  expect(await reasonOf(provider.deleteRegistry({ id: host }))).toBe("REGISTRY_IN_USE"); // the older command has not ended
  for (const { command_id } of await engine.ports.db.selectFrom("command_states").select("command_id").execute())
    await engine.ports.db
      .updateTable("command_states")
      .set({ state: "SUCCEEDED", ended_at: new Date() })
      .where("command_id", "=", command_id)
      .execute();
  await provider.deleteRegistry({ id: host });
  const deleted = (await auditOf()).auditEvents.filter(({ action }) => action === "registry.delete");
  expect(deleted.map(({ before, after }) => [(before as { host?: string } | undefined)?.host, after])).toEqual([
    [host, undefined],
    [host, undefined],
    ["idle.example.com", undefined],
  ]);
});

test("a password that cannot be read any more fails the commands that need it, and says which registry", async () => {
  const { db, provider, deploy, fetch, warnings } = await start();
  await provider.createRegistry({ registry: { host, username: "ci", password } });
  await db
    .updateTable("registries")
    .set({ password_encrypted: Buffer.alloc(64) })
    .execute();
  const needing = await deploy([`${host}/app`]);
  const other = await deploy(["web"]);
  expect(await fetch(needing.commandId)).toMatchObject({
    reason: "SECRET_UNREADABLE",
    message: expect.stringContaining(`registry update ${host}`),
  });
  expect((await fetch(other.commandId)).spec).not.toHaveLength(0);
  expect(warnings).toEqual([expect.stringContaining(host)]);
});
