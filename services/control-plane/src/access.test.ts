/**
 * Who may call what: every method of the contract, over every slice as the
 * server wires them, with a caller of each role and with none.
 */
import { join } from "node:path";
import type { DescMethod } from "@bufbuild/protobuf";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { loadOrCreateKeyFile } from "@bowline/auth";
import { methodAccess, type RoleName, roleNumber, services } from "@bowline/contract";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { ServiceAccountService } from "@bowline/contract/identity";
import { newId, systemClock } from "@bowline/kernel";
import { temporaryFolder, testDatabase } from "@bowline/testing";
import { beforeAll, expect, test } from "@jest/globals";
import { pino } from "pino";
import { loadConfig } from "./config.ts";
import { bootstrap } from "./identity/index.ts";
import { createEvents } from "./platform/events.ts";
import { openHints } from "./platform/hints.ts";
import { createMetrics } from "./platform/metrics.ts";
import { wire } from "./wire.ts";

/** Everyone with an API token. Agents come with assertions and session tokens. */
const roles = ["admin", "operator", "provider", "customer", "viewer"] as const satisfies readonly RoleName[];

const methods = services.flatMap((service) => service.methods);
const nameOf = (method: DescMethod) => `${method.parent.name}.${method.name}`;

let transport: Transport;
const tokens = new Map<RoleName, string>();

beforeAll(async () => {
  const { db, open } = await testDatabase();
  const log = pino({ level: "silent" });
  let admin = "";
  const installation = await bootstrap(db, {
    events: createEvents(db, log),
    writeAdminToken: async (token) => void (admin = token),
  });
  const replicaId = newId("replica");
  const metrics = createMetrics();
  const { installationId } = installation;
  ({ transport } = wire(loadConfig([], {}).config, log, {
    database: open(),
    encryption: await loadOrCreateKeyFile(join(temporaryFolder(), "key")),
    installation,
    replicaId,
    metrics,
    hints: await openHints({
      redis: undefined,
      database: undefined,
      ...{ installationId, replicaId, clock: systemClock, log, metrics },
    }),
    publicUrl: () => "https://bowline.example",
  }));
  tokens.set("admin", admin);
  for (const role of roles.slice(1)) {
    const request = { name: `a-${role}`, role: roleNumber(role) };
    const made = await transport.unary(
      ServiceAccountService.method.createServiceAccount,
      undefined,
      undefined,
      { authorization: `Bearer ${admin}` },
      request,
    );
    tokens.set(role, made.message.token);
  }
});

/** Agents' calls prove who they are after their fields are checked; these have nothing wrong with them. */
const valid: Record<string, Record<string, unknown>> = {
  "AgentService.FetchDeployments": { items: [{ commandId: "command_1", attempt: 1 }] },
  "AgentService.RotateKey": { signingKey: "{}", sealingKey: "{}", proof: "a.b.c", approval: "a.b.c" },
  "PollingService.SendSync": { pages: [{ last: true }] },
  "PollingService.ReceiveCommands": { number: 1 },
  "PollingService.SendReceipts": { receipts: [{}] },
  "PollingService.SendProgress": { progress: [{}] },
  "PollingService.SendResults": { results: [{}] },
  "PollingService.GetDeployment": { deploymentId: "deployment_1", generation: 1, commandId: "command_1", attempt: 1 },
  "TunnelPollingService.SendFrames": { tunnelId: "tunnel_1", number: 1 },
  "TunnelPollingService.ReceiveFrames": { tunnelId: "tunnel_1", number: 1 },
};

/** The reason with which an empty call is refused; `ok` where it is answered, or its stream begins. */
async function called(method: DescMethod, token?: string): Promise<string> {
  const header = token === undefined ? undefined : { authorization: `Bearer ${token}` };
  const body = valid[nameOf(method)] ?? {};
  const hangUp = new AbortController();
  try {
    if (method.methodKind === "unary") {
      await transport.unary(method as DescMethod & { methodKind: "unary" }, hangUp.signal, undefined, header, body);
      return "ok";
    }
    const messages = (async function* () {
      yield body;
    })();
    const streaming = method as DescMethod & { methodKind: "server_streaming" };
    const answer = await transport.stream(streaming, hangUp.signal, undefined, header, messages);
    for await (const _ of answer.message) break;
    return "ok";
  } catch (error) {
    const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
    if (info === undefined) throw error;
    return info.reason;
  } finally {
    hangUp.abort();
  }
}

const refusals = ["UNAUTHENTICATED", "PERMISSION_DENIED"];
/** How the agent API refuses what is neither an assertion nor a session token. */
const agentRefusals = ["ASSERTION_INVALID", "SESSION_EXPIRED", ...refusals];

test("every method declares who may call it", () => {
  expect(methods.filter((method) => methodAccess(method).kind === "undeclared").map(nameOf)).toEqual([]);
  expect(methods.length).toBeGreaterThan(50);
});

test("what needs no credential is this and nothing more", () => {
  expect(methods.filter((method) => methodAccess(method).kind === "public").map(nameOf)).toEqual([
    "AgentService.Enroll",
    "AgentService.Examine",
  ]);
});

const guarded = methods.filter((method) => methodAccess(method).kind !== "public");

test.each(guarded.map((method) => [nameOf(method), method] as const))(
  "%s refuses a call without a credential, and one with a wrong one",
  async (_, method) => {
    const access = methodAccess(method);
    const expected = access.kind === "roles" && access.roles.includes("agent") ? agentRefusals : ["UNAUTHENTICATED"];
    expect(expected).toContain(await called(method));
    for (const wrong of ["", "bwt_", `bwt_${"0".repeat(26)}_${"a".repeat(43)}`, "a.b.c"])
      expect(expected).toContain(await called(method, wrong));
  },
);

test.each(guarded.map((method) => [nameOf(method), method] as const))(
  "%s takes calls of the roles that it lists, and no others",
  async (_, method) => {
    const access = methodAccess(method);
    for (const role of roles) {
      const reason = await called(method, tokens.get(role));
      if (access.kind === "roles" && access.roles.every((listed) => listed === "agent"))
        expect(agentRefusals).toContain(reason);
      else if (access.kind === "any-principal" || (access.kind === "roles" && access.roles.includes(role)))
        expect(refusals).not.toContain(reason);
      else expect([role, reason]).toEqual([role, "PERMISSION_DENIED"]);
    }
  },
);
