import { expect, test } from "@jest/globals";
import { AuditService } from "@bowline/contract/audit";
import { OrganisationService, ServiceAccountService } from "@bowline/contract/identity";
import { Role } from "@bowline/contract/options";
import { testDatabase } from "@bowline/testing";
import { bootstrap, createIdentity } from "../identity/index.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess, reasonOf } from "../platform/in-process.ts";
import { createAudit } from "./index.ts";

async function start() {
  const { db } = await testDatabase();
  const events = createEvents(db, { error: () => {} });
  const identity = createIdentity({ db, events, serverVersion: "0.1.0" });
  const audit = createAudit({ db, events });
  let admin = "";
  await bootstrap(db, { events, writeAdminToken: async (token) => void (admin = token) });
  const api = inProcess((router) => {
    identity.register(router);
    audit.register(router);
  }, identity);
  const organisation = (name: string) =>
    api.as(OrganisationService, admin).createOrganisation({ organisation: { name } });
  return { api, admin, events, organisation, audit: api.as(AuditService, admin) };
}

test("a change is told with who, what and after; the first start too", async () => {
  const { audit, organisation } = await start();
  const { id } = await organisation("acme");
  const { auditEvents } = await audit.listAuditEvents({});
  expect(auditEvents.map(({ action }) => action)).toEqual(["organisation.create", "installation.create"]);
  expect(auditEvents[0]).toMatchObject({
    principal: "admin",
    resourceKind: "organisation",
    resourceId: id,
    outcome: "ok",
    after: { id, name: "acme" },
  });
  expect(auditEvents[0]?.before).toBeUndefined();
  expect(auditEvents[0]?.requestId).toMatch(/^req_/);
});

test("events are filtered and paged, newest first, without gaps", async () => {
  const { audit, organisation } = await start();
  for (const name of ["a", "b", "c"]) await organisation(name);
  const seen: string[] = [];
  let pageToken = "";
  do {
    const page = await audit.listAuditEvents({ pageSize: 2, pageToken, actionPrefix: "organisation." });
    seen.push(...page.auditEvents.map(({ after }) => JSON.stringify(after?.["name"])));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  expect(seen).toEqual([`"c"`, `"b"`, `"a"`]);
  expect((await audit.listAuditEvents({ principalId: "system" })).auditEvents).toHaveLength(1);
  expect((await audit.listAuditEvents({ actionPrefix: "%" })).auditEvents).toHaveLength(0);
});

test("only operators read the audit trail", async () => {
  const { api, admin } = await start();
  for (const role of [Role.PROVIDER, Role.CUSTOMER, Role.VIEWER]) {
    const { token } = await api.as(ServiceAccountService, admin).createServiceAccount({ name: `r${role}`, role });
    expect(await reasonOf(api.as(AuditService, token).listAuditEvents({}))).toBe("PERMISSION_DENIED");
  }
});

test("a watch starts with the newest events and tells the next ones", async () => {
  const { audit, organisation, events } = await start();
  const stop = new AbortController();
  const placing = events.run(stop.signal);
  const seen: string[] = [];
  for await (const { auditEvent } of audit.watchAuditEvents({}, { signal: stop.signal })) {
    if (auditEvent === undefined) continue;
    seen.push(auditEvent.action);
    if (seen.length === 1) await organisation("acme");
    if (auditEvent.action === "organisation.create") break;
  }
  expect(seen.at(0)).toBe("installation.create");
  expect(seen.at(-1)).toBe("organisation.create");
  stop.abort();
  await placing;
});
