/** Logs and programs of instances at an agent that polls: its requests reach one replica, callers ask at others. */
import { createHash } from "node:crypto";
import { beforeAll, expect, test } from "@jest/globals";
import { AgentsService, Agent_Transport } from "@bowline/contract/agents";
import { InstanceService } from "@bowline/contract/instances";
import { isRunning, until } from "@bowline/testing";
import { refusalOf } from "@bowline/session";
import { pidOf, run, type Said, type Shop, startShop, stays, withinMs } from "./tunnels.fixture.ts";

let shop: Shop;

beforeAll(async () => {
  shop = await startShop("--transport", "poll");
}, 120_000);

test("logs come whole, at the replica that the agent polls and at another one", async () => {
  const { agents } = await shop.a.client(AgentsService).listAgents({});
  expect(agents.map(({ transport }) => transport)).toEqual([Agent_Transport.POLL]);
  for (const server of [shop.a, shop.b]) {
    const lines: string[] = [];
    for await (const { entries } of server.client(InstanceService).streamLogs({ stack: "shop", services: ["db"] }))
      lines.push(...entries.map(({ line }) => line));
    expect(lines).toEqual(["one", "two", "three"]);
  }
});

test("what is written is told as it is written, each line once, over a way that breaks for a moment", async () => {
  const left = new AbortController();
  const ticks: number[] = [];
  const request = { stack: "shop", services: ["web"], index: 0, follow: true, lines: 0 };
  let cuts = 0;
  try {
    for await (const { entries } of shop.b.client(InstanceService).streamLogs(request, { signal: left.signal })) {
      ticks.push(...entries.map(({ line }) => Number(line.replace("tick ", ""))));
      if (cuts === 0 && ticks.length > 3) {
        cuts += 1;
        shop.way.cut();
        shop.way.mend();
      }
      if (ticks.length > 20) left.abort();
    }
  } catch (error) {
    expect(refusalOf(error).reason).toBe("CANCELED");
  }
  expect(ticks).toEqual(ticks.map((_, at) => (ticks[0] ?? 0) + at));
  expect(cuts).toBe(1);
  const rows = shop.a.database.db.selectFrom("tunnels").select("id");
  await until(async () => (await rows.execute()).length === 0, { withinMs });
});

test("a program's input, outputs and exit code, and a terminal with its size", async () => {
  const program = "process.stdin.pipe(process.stdout); process.stdin.on('end', () => { process.exitCode = 7; })";
  const done = run(shop.b, ["node", "-e", program]);
  done.type("to and ");
  done.type("fro");
  done.end();
  expect(await done.ended).toBe(7);
  expect(done.text.stdout).toBe("to and fro");

  const terminal = run(shop.a, ["sh"], { tty: true, size: { columns: 101, rows: 31 } });
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

test("a caller that goes away ends the program", async () => {
  const left = run(shop.b, stays);
  const pid = await pidOf(left);
  expect(isRunning(pid)).toBe(true);
  left.leave();
  await until(() => !isRunning(pid), { withinMs });
});

test("much output arrives whole and in order, also when requests and answers are lost on the way", async () => {
  const script = `const hash = require("crypto").createHash("sha256"); const chunks = [];
    for (let at = 0; at < 32; at += 1) chunks.push(require("crypto").randomBytes(65536));
    for (const chunk of chunks) hash.update(chunk);
    console.error(hash.digest("hex"));
    const next = () => { const chunk = chunks.shift(); if (chunk !== undefined) process.stdout.write(chunk, next); }; next();`;
  async function* said(): AsyncGenerator<Said> {
    const value = { stack: "shop", service: "web", index: 0, command: ["node", "-e", script] };
    yield { message: { case: "start", value } };
  }
  const hash = createHash("sha256");
  let told = "";
  let bytes = 0;
  let cuts = 0;
  let code: number | undefined;
  for await (const { message } of shop.b.client(InstanceService).exec(said())) {
    if (message.case === "stderr") told += Buffer.from(message.value).toString();
    if (message.case === "exit") ({ code } = message.value);
    if (message.case !== "stdout") continue;
    hash.update(message.value);
    bytes += message.value.length;
    if (bytes < (cuts + 1) * 300_000) continue;
    cuts += 1;
    shop.way.cut();
    shop.way.mend();
  }
  expect({ code, bytes }).toEqual({ code: 0, bytes: 32 * 65_536 });
  expect(cuts).toBeGreaterThan(3);
  expect(told.trim()).toBe(hash.digest("hex"));
});
