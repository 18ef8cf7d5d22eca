/** `npm run fleet` as its users run it: with a server of its own, and against one that is there. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { ClusterService } from "@bowline/contract/clusters";
import { runProcess, startServer, temporaryFolder } from "@bowline/testing";

const program = fileURLToPath(new URL("../../bench/fleet/main.ts", import.meta.url));

interface Told {
  agents: { enrolled: number; serving: number };
  publishes: { made: number; live: number };
  commands: { succeeded: number };
  check: { compared: boolean; commands: number; violations: string[] };
  failures: string[];
  server: { memoryMb: number } | undefined;
  seed: number;
}

test("without a server it starts one, shows what goes on, tells it as JSON, and leaves no folder behind", async () => {
  const folder = temporaryFolder();
  const args =
    "--agents 10 --duration 3s --publish-rate 4 --agents-per-publish 5 --run-ms 5..50 --seed 7 --output json";
  const ran = await runProcess({ command: ["node", program, ...args.split(" ")], env: { TMPDIR: folder } });
  expect(ran.stderr).toMatch(/agents\s+\d+ of 10 enrolled/);
  expect(ran.code).toBe(0);
  const report = JSON.parse(ran.stdout) as Told;
  expect(report).toMatchObject({ seed: 7, agents: { enrolled: 10, serving: 10 }, failures: [] });
  expect(report.publishes.live).toBe(report.publishes.made);
  expect(report.publishes.live).toBeGreaterThan(0);
  expect(report.check).toMatchObject({ compared: true, commands: report.commands.succeeded, violations: [] });
  if (process.platform === "linux") expect(report.server?.memoryMb).toBeGreaterThan(0);
  const left = await runProcess({ command: ["ls", "-A", folder] });
  expect(left.stdout).not.toMatch(/bowline-fleet/);
});

test("against a server it makes a cluster with an operator's token, and removes it with its agents", async () => {
  const server = await startServer();
  const file = join(temporaryFolder(), "token");
  writeFileSync(file, server.adminToken, { mode: 0o600 });
  const args = `--server ${server.url} --operator-token-file ${file} --agents 5 --duration 2s --agents-per-publish 5 --run-ms 5`;
  const ran = await runProcess({ command: ["node", program, ...args.split(" ")] });
  expect(ran.stdout).toMatch(/5 of 5 serve[^]*one result per id\s+yes[^]*All as it should be/);
  expect(ran.code).toBe(0);
  expect((await server.client(ClusterService).listClusters({})).clusters).toEqual([]);
  const { db } = server.database;
  expect(await db.selectFrom("gateways").select("name").where("name", "like", "fleet-%").execute()).toEqual([]);

  writeFileSync(file, "bwa_of_nobody");
  const refused = await runProcess({ command: ["node", program, ...args.split(" ")] });
  expect([refused.code, refused.stderr]).toEqual([4, expect.stringMatching(/UNAUTHENTICATED|TOKEN/)]);
  const elsewhere = args.replace(server.url, "http://127.0.0.1:9");
  expect((await runProcess({ command: ["node", program, ...elsewhere.split(" ")] })).code).toBe(5);
});
