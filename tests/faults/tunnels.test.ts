/**
 * Logs and programs of instances through tunnels: replicas, an agent that dials
 * only the first, and callers at others.
 */
import { globSync, readFileSync } from "node:fs";
import { beforeAll, expect, test } from "@jest/globals";
import { AuditService } from "@bowline/contract/audit";
import { ServiceAccountService } from "@bowline/contract/identity";
import { InstanceService, type LogEntry } from "@bowline/contract/instances";
import { Role } from "@bowline/contract/options";
import { isRunning, type TestServer, until } from "@bowline/testing";
import { refusalOf } from "@bowline/session";
import { pidOf, run, type Said, type Shop, startShop, stays, withinMs } from "./tunnels.fixture.ts";

let shop: Shop;
let a: TestServer;
let b: TestServer;

beforeAll(async () => {
  shop = await startShop();
  ({ a, b } = shop);
}, 120_000);

const names = (entries: readonly LogEntry[]): string[] =>
  entries.map(({ instance, line }) => `${instance?.agent}/${instance?.service}.${instance?.index} ${line}`);

test("logs of several instances, merged and named, at either replica, over gRPC's and REST's way", async () => {
  for (const server of [a, b]) {
    const entries: LogEntry[] = [];
    for await (const answer of server.client(InstanceService).streamLogs({ stack: "shop", services: ["db"] }))
      entries.push(...answer.entries);
    expect(names(entries)).toEqual(["press-1/db.0 one", "press-1/db.0 two", "press-1/db.0 three"]);
  }
  const headers = { authorization: `Bearer ${b.adminToken}` };
  const answer = await fetch(`${b.url}/v1/provider/stacks/shop/logs?services=db&lines=1`, { headers });
  expect(JSON.parse((await answer.text()).trim().split("\n")[0] ?? "")).toMatchObject({
    entries: [{ instance: { agent: "press-1", service: "db", index: 0 }, line: "three" }],
  });
});

test("following tells what is written from then on, of each instance in its order, until the caller goes", async () => {
  const left = new AbortController();
  const seen = new Map<string, number[]>();
  const follow = { stack: "shop", services: ["web"], follow: true, lines: 0 };
  try {
    for await (const { entries } of b.client(InstanceService).streamLogs(follow, { signal: left.signal })) {
      for (const { instance, line } of entries) {
        const key = `${instance?.service}.${instance?.index}`;
        seen.set(key, [...(seen.get(key) ?? []), Number(line.replace("tick ", ""))]);
      }
      if (seen.size === 2 && [...seen.values()].every((ticks) => ticks.length >= 4)) left.abort();
    }
  } catch (error) {
    expect(refusalOf(error).reason).toBe("CANCELED");
  }
  for (const ticks of seen.values()) expect(ticks).toEqual(ticks.map((_, at) => (ticks[0] ?? 0) + at));
  await until(async () => (await a.database.db.selectFrom("tunnels").selectAll().execute()).length === 0, { withinMs });
});

test("a program in an instance at another replica's agent: its environment, stdin, outputs and exit code; and it is audited", async () => {
  const program =
    "process.stdin.pipe(process.stdout); process.stdin.on('end', () => { console.error(process.env.COLOUR); process.exitCode = 7; })";
  const done = run(b, ["node", "-e", program, "an-argument"], { index: 1 });
  done.type("to and ");
  done.type("fro");
  done.end();
  expect(await done.ended).toBe(7);
  expect(done.text).toEqual({ stdout: "to and fro", stderr: "blue\n" });
  const { auditEvents } = await a.client(AuditService).listAuditEvents({ actionPrefix: "instance.exec" });
  expect(auditEvents[0]?.principal).toBe("admin");
  expect(auditEvents[0]?.after).toMatchObject({
    ...{ agent: "press-1", service: "web", index: 1, tty: false },
    command: ["node", "-e", program, "an-argument"],
  });
  for (const log of [a.process.output(), b.process.output(), shop.agent.process.output()])
    expect(log).not.toContain("to and");
});

test("a terminal: its size, and what is typed there", async () => {
  const terminal = run(b, ["sh"], { tty: true, size: { columns: 101, rows: 31 } });
  terminal.type("stty size\n");
  await until(() => terminal.text.stdout.includes("31 101"), { withinMs });
  terminal.resize(61, 17);
  await until(
    () => {
      terminal.type("stty size\n");
      return terminal.text.stdout.includes("17 61");
    },
    { withinMs },
  );
  terminal.type("exit 5\n");
  expect(await terminal.ended).toBe(5);
});

test("a caller that goes away, at either replica, ends the program", async () => {
  for (const server of [a, b]) {
    const left = run(server, stays);
    const pid = await pidOf(left);
    expect(isRunning(pid)).toBe(true);
    left.leave();
    await until(() => !isRunning(pid), { withinMs });
  }
});

test("who reads slowly slows the program: between it and the caller no more is kept than the way holds", async () => {
  const total = 12 * 1024 * 1024;
  const flood = `const chunk = require("crypto").randomBytes(65536); let written = 0;
    const next = () => { while (written < ${total}) { written += chunk.length; if (!process.stdout.write(chunk)) {
      require("fs").writeFileSync("written", String(written)); return process.stdout.once("drain", next); } } }; next();`;
  const agentFolder = shop.agent.dataDir;
  const written = (): number => {
    const [path] = globSync("**/web.0.*/folder/written", { cwd: agentFolder });
    return path === undefined ? 0 : Number(readFileSync(`${agentFolder}/${path}`, "utf8"));
  };
  async function* said(): AsyncGenerator<Said> {
    yield {
      message: { case: "start", value: { stack: "shop", service: "web", index: 0, command: ["node", "-e", flood] } },
    };
  }
  const answers = b.client(InstanceService).exec(said())[Symbol.asyncIterator]();
  let bytes = 0;
  const read = async (): Promise<boolean> => {
    const { done, value } = await answers.next();
    if (done === true || value.message.case === "exit") return false;
    if (value.message.case === "stdout") bytes += value.message.value.length;
    return true;
  };
  while (bytes === 0) await read();
  let last = -1;
  await until(
    async () => {
      const now = written();
      const still = now > 0 && now === last;
      last = now;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return still;
    },
    { withinMs },
  );
  expect(last).toBeLessThan(4 * 1024 * 1024);
  while (await read());
  expect(bytes).toBe(total);
}, 120_000);

test("what cannot be is refused by its reason", async () => {
  const reasonOf = async (request: object, server = b, token?: string): Promise<string> => {
    try {
      for await (const _ of server.client(InstanceService, token).streamLogs(request));
      return "none";
    } catch (error) {
      return refusalOf(error).reason;
    }
  };
  expect(await reasonOf({ stack: "nothing" })).toBe("NOT_FOUND");
  expect(await reasonOf({ stack: "shop", services: ["cache"] })).toBe("INSTANCE_UNKNOWN");
  expect(await reasonOf({})).toBe("INVALID_ARGUMENT");
  expect(await reasonOf({ stack: "shop", deploymentId: "deployment_1" })).toBe("INVALID_ARGUMENT");
  expect(await run(b, ["true"], { index: 9 }).ended).toBe("INSTANCE_UNKNOWN");
  expect(await run(b, []).ended).toBe("INVALID_ARGUMENT");
  expect(await run(b, ["/no/such/program"]).ended).toBe(127);
  const accounts = a.client(ServiceAccountService);
  const viewer = await accounts.createServiceAccount({ name: "looks", role: Role.VIEWER });
  expect(await run(b, ["true"], {}, viewer.token).ended).toBe("PERMISSION_DENIED");
});
