import { expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { GatewayService } from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { reasonOf } from "../../platform/in-process.ts";
import { transact } from "../../platform/transactions.ts";
import { catalogueInProcess } from "./in-process.ts";

async function start() {
  const { db } = await testDatabase();
  const started = await catalogueInProcess(db);
  const { catalogue, caller } = started;
  return {
    db,
    ...started,
    alpha: started.as(GatewayService, "alpha"),
    gateway: (who: string, idOrName: string, organisationId?: string) =>
      transact(db, (work) => catalogue.gatewayForPublish(work, caller(who), idOrName, organisationId)),
  };
}

const mask = (...paths: string[]) => create(FieldMaskSchema, { paths });

test("a gateway that says nothing is embedded and listens on 8081", async () => {
  const { alpha } = await start();
  const made = await alpha.createGateway({ gateway: { name: "edge" } });
  expect(made).toMatchObject({ gatewayClass: "embedded", isDefault: false, etag: "1" });
  expect(made.listeners).toMatchObject([{ name: "http", protocol: "HTTP", port: 8081, address: "" }]);
  expect(await alpha.getGateway({ id: "edge" })).toEqual(made);
});

test("what a gateway was given is what it answers", async () => {
  const { alpha } = await start();
  const gateway = {
    name: "edge",
    displayName: "Edge",
    gatewayClass: "nginx",
    listeners: [
      { name: "a", protocol: "HTTP", port: 0, address: "::1" },
      { name: "b", port: 80, address: "10.0.0.1" },
      { name: "c", port: 80, address: "10.0.0.2" },
    ],
    agentLabels: { zone: "a", "example.com/x": "" },
    isDefault: true,
  };
  await alpha.createGateway({ gateway });
  expect(await alpha.getGateway({ id: "edge" })).toMatchObject(gateway);
});

test("a change of listeners or labels reaches the data planes, a change of texts does not", async () => {
  const { alpha, gatewaysChanged } = await start();
  const { id } = await alpha.createGateway({ gateway: { name: "edge" } });
  await alpha.updateGateway({ gateway: { id, displayName: "x" } });
  await alpha.updateGateway({ gateway: { id, listeners: [{ name: "http", protocol: "HTTP", port: 8081 }] } });
  expect(gatewaysChanged).toEqual([]);
  await alpha.updateGateway({ gateway: { id, listeners: [{ name: "http", port: 9000 }] } });
  await alpha.updateGateway({ gateway: { id, agentLabels: { zone: "a" } } });
  expect(gatewaysChanged).toEqual([id, id]);
});

test("a gateway's class never changes, and it keeps a listener", async () => {
  const { alpha, violationsOf } = await start();
  await alpha.createGateway({ gateway: { name: "edge" } });
  const other = alpha.updateGateway({ gateway: { id: "edge", gatewayClass: "nginx" } });
  expect(await violationsOf(other)).toEqual(["gateway.gateway_class"]);
  expect(await reasonOf(alpha.updateGateway({ gateway: { id: "edge", gatewayClass: "embedded" } }))).toBe("ok");
  const none = alpha.updateGateway({ gateway: { id: "edge" }, updateMask: mask("listeners") });
  expect(await violationsOf(none)).toEqual(["gateway.listeners"]);
});

test("listeners have names, ports and addresses of their own", async () => {
  const { alpha, violationsOf } = await start();
  const refused = alpha.createGateway({
    gateway: {
      name: "edge",
      listeners: [
        { name: "a", port: 80 },
        { name: "a", port: 81, address: "example.com" },
        { name: "b", port: 80, address: "10.0.0.1" },
      ],
      agentLabels: { "": "x" },
    },
  });
  expect(await violationsOf(refused)).toEqual([
    "gateway.listeners[1].name",
    "gateway.listeners[1].address",
    "gateway.listeners[2].port",
    'gateway.agent_labels[""]',
  ]);
});

test("a new default takes the place of the old one, also where several want to be it at once", async () => {
  const { alpha, gateway } = await start();
  await alpha.createGateway({ gateway: { name: "a", isDefault: true } });
  await alpha.createGateway({ gateway: { name: "b", isDefault: true } });
  expect((await gateway("alpha", "")).name).toBe("b");
  await alpha.updateGateway({ gateway: { id: "a", isDefault: true } });
  expect((await gateway("alpha", "")).name).toBe("a");
  await Promise.all(["c", "d", "e"].map((name) => alpha.createGateway({ gateway: { name, isDefault: true } })));
  const { gateways } = await alpha.listGateways({});
  expect(gateways.filter(({ isDefault }) => isDefault)).toHaveLength(1);
});

test("publishing without a gateway makes the organisation's default one, once", async () => {
  const { alpha, gateway, db } = await start();
  await alpha.createGateway({ gateway: { name: "default", gatewayClass: "nginx" } });
  const [first, second] = await Promise.all([gateway("alpha", ""), gateway("alpha", "")]);
  expect(first).toMatchObject({ name: "default-2", gatewayClass: "embedded", agentLabels: {} });
  expect(first?.listeners).toMatchObject([{ name: "http", port: 8081 }]);
  expect(second).toEqual(first);
  const audits = await db
    .selectFrom("audit_events")
    .select("resource_id")
    .where("action", "=", "gateway.create")
    .execute();
  expect(audits).toHaveLength(2);
  expect((await gateway("beta", "")).name).toBe("default");
});

test("a publish takes a gateway of its organisation only", async () => {
  const { alpha, gateway, caller } = await start();
  const { id } = await alpha.createGateway({ gateway: { name: "edge" } });
  expect((await gateway("alpha", "edge")).id).toBe(id);
  await expect(gateway("beta", id)).rejects.toMatchObject({ reason: "NOT_FOUND" });
  expect((await gateway("beta/admin", id)).id).toBe(id);
  const { organisationId } = caller("alpha").principal;
  expect((await gateway("beta/admin", "", organisationId)).organisationId).toBe(organisationId);
});

test("a gateway is changed with its ETag and deleted when nothing is on it", async () => {
  const { alpha } = await start();
  await alpha.createGateway({ gateway: { name: "edge" } });
  expect(await reasonOf(alpha.updateGateway({ gateway: { id: "edge", displayName: "x", etag: "9" } }))).toBe(
    "STALE_ETAG",
  );
  expect(await reasonOf(alpha.deleteGateway({ id: "edge", etag: "9" }))).toBe("STALE_ETAG");
  await alpha.deleteGateway({ id: "edge", etag: "1" });
  expect(await reasonOf(alpha.getGateway({ id: "edge" }))).toBe("NOT_FOUND");
});

test("a first publish that meets somebody who takes the name of its default gateway is UNAVAILABLE, and works again", async () => {
  const { db, gateway, caller } = await start();
  let taken: () => void = () => undefined;
  let goOn: () => void = () => undefined;
  const hasTaken = new Promise<void>((resolve) => (taken = resolve));
  const mayCommit = new Promise<void>((resolve) => (goOn = resolve));
  const other = db.transaction().execute(async (tx) => {
    await tx
      .insertInto("gateways")
      .values({
        id: newId("gateway"),
        organisation_id: caller("alpha").principal.organisationId,
        name: "default",
        gateway_class: "embedded",
        listeners: "[]",
      })
      .execute();
    taken();
    await mayCommit;
  });
  await hasTaken;
  const first = gateway("alpha", "").catch((error: unknown) => error);
  await until(async () => {
    const { rows } = await sql`
      SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`.execute(db);
    return rows.length > 0;
  });
  goOn();
  await other;
  expect(await first).toMatchObject({ reason: "UNAVAILABLE" });
  expect(await gateway("alpha", "")).toMatchObject({ name: "default-2" });
});
