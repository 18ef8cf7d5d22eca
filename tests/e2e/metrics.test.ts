/** What a server counts of a command's way and of its agents, as a scrape shows it. */
import { readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { startServer, type TestServer, until } from "@bowline/testing";

/** Samples of one scrape: `name{labels}` to value. */
async function scrape(server: TestServer): Promise<Map<string, number>> {
  const answer = await fetch(`${server.url}/metrics`, { headers: { connection: "close" } });
  const lines = (await answer.text()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
}

test("a command's way, its session and its publish are counted once each, and no label names a tenant", async () => {
  const server = await startServer();
  const agent = await server.scriptedAgent({ cluster: "secret-customer" });
  expect((await scrape(server)).get('bowline_sessions{phase="serving",transport="stream"}')).toBe(1);

  await server.operator.publish("secret-product", { to: "secret-customer" });
  for (let commands = 0; commands < 2; commands += 1) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
  }
  await agent.goodbye();
  const samples = await until(async () => {
    const found = await scrape(server);
    return found.has('bowline_sessions_ended_total{transport="stream",reason="CLOSED_CLEANLY"}') ? found : undefined;
  });
  const steps = ["enqueue_to_claim", "claim_to_push", "push_to_receipt", "receipt_to_result", "result_to_recorded"];
  for (const step of steps) {
    expect([step, samples.get(`bowline_command_step_seconds_count{step="${step}"}`)]).toEqual([step, 2]);
    expect(samples.get(`bowline_command_step_seconds_sum{step="${step}"}`)).toBeGreaterThan(0);
  }
  expect(samples.get('bowline_commands_claimed_total{via="enqueue"}')).toBe(2);
  expect(samples.get('bowline_commands_ended_total{state="SUCCEEDED"}')).toBe(2);
  expect(samples.get("bowline_publish_to_live_seconds_count")).toBe(1);
  expect(samples.get('bowline_enrolments_total{outcome="ok"}')).toBe(1);
  expect(samples.get("bowline_database_acquire_seconds_count")).toBeGreaterThan(0);
  expect(samples.get('bowline_defects_total{kind="blocked_promoted"}')).toBe(0);
  expect([...samples.keys()].join("\n")).not.toMatch(/secret-|agent_0|cluster_0|command_0/);
});

test("each bounded queue that the page names has its length, and each that leaves something out counts it from 0", async () => {
  const page = readFileSync(new URL("../../docs/operations/metrics.md", import.meta.url), "utf8");
  const table = /^## Bounded queues$([\s\S]*?)^## /m.exec(page)?.[1] ?? "";
  const named = [...table.matchAll(/^\| `(\w+)`/gm)].map(([, name = ""]) => name);
  expect(named).toEqual(expect.arrayContaining(["outbox", "reports", "words", "presence", "spans"]));
  const samples = await scrape(await startServer());
  const of = (metric: string) =>
    [...samples.keys()].flatMap((key) => new RegExp(`^${metric}\\{queue="(\\w+)"\\}$`).exec(key)?.[1] ?? []);
  expect(of("bowline_queue_length").toSorted()).toEqual(named.toSorted());
  const dropping = of("bowline_queue_dropped_total");
  expect(dropping).toEqual(expect.arrayContaining(["outbox", "reports", "progress", "words", "presence", "spans"]));
  for (const queue of dropping) expect(samples.get(`bowline_queue_dropped_total{queue="${queue}"}`)).toBe(0);
});
