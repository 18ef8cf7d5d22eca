/** `bowline stack` with a server and an agent of local processes: the README's lines, and a file with mistakes. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { freePort, runProcess, temporaryFolder } from "@bowline/testing";
import { programs, startServer } from "./fixture.ts";
import { joinAgent } from "./operating.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The lines to type of a section of the README. */
function linesOf(heading: string): string[] {
  const [, section = ""] = readFileSync(join(root, "README.md"), "utf8").split(`\n## ${heading}\n`);
  return [...(section.split("\n## ")[0] ?? "").matchAll(/^ {4}(.+)$/gm)].map(([, line = ""]) => line);
}

/** What each line of "A stack" is to say, in their order. */
const said: readonly RegExp[] = [
  /press-1 +web +create +1/, // --dry-run
  /^shop r1 to workshop: RUNNING +stack_/m,
  /press-1 +web +running.* node:24/,
  /^Hello from the shop$/m,
  /^web-0@press-1 \| listening on \d+$/m,
  /^v\d+\.\d+\.\d+$/m, // exec
  /^shop r2 to workshop: RUNNING/m,
  /^Good morning from the shop$/m,
  /~ services\/web\/environment/,
  /^shop r1 to workshop: RUNNING/m,
  /^r1, wanted now/m,
  /rollback r2 → r1 by admin: SUCCEEDED, 1 of 1 hosts/,
  /apply shop r2 +press-1 +admin +SUCCEEDED +[\d.]+ /,
  /^shop in workshop: DELETED/m,
];

test("a stack as the README types it: planned, up, asked, changed, rolled back, removed; a mistake in a file is told at its place", async () => {
  const server = await startServer();
  const cluster = await server.api.clusters.createCluster({ cluster: { name: "workshop", runtime: "local" } });
  const place = { api: server.api, clusterId: cluster.id, cluster: "workshop", gatewayId: "" };
  const agent = await joinAgent(place, { flags: ["--name", "press-1"] });
  const port = String(await freePort());
  const env = {
    ...{ BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken, npm_lifecycle_event: "" },
    ...{ SHOP_PORT: port, GREETING: undefined },
  };
  const type = (line: string, cwd = root) => runProcess({ command: ["bash", "-c", line], cwd, env });
  const bowline = `${process.execPath} ${programs.cli}`;

  const lines = linesOf("A stack").filter((line) => /^(\w+='[^']*' )?(npm|curl) /.test(line));
  expect(lines).toHaveLength(said.length);
  for (const [at, line] of lines.entries()) {
    const typed = line
      .replace("npm run -s bowline --", bowline)
      .replace("curl ", "curl -sS --fail --retry 5 --retry-connrefused ")
      .replace("8090", port);
    const { code, stdout, stderr } = await type(typed);
    expect([line, code, code === 0 ? "" : stderr]).toEqual([line, 0, ""]);
    expect(stdout).toMatch(said[at] ?? /never/);
  }
  const { deployments } = await server.api.deployments.listDeployments({ agentId: await agent.id() });
  expect(deployments).toEqual([]);

  const folder = temporaryFolder();
  writeFileSync(
    join(folder, "compose.yaml"),
    "services:\n  web:\n    image: web:$COLOUR_OF_WEB\n    restrat: always\n",
  );
  const wrong = await type(`${bowline} stack up --name wrong --to workshop`, folder);
  expect([wrong.code, wrong.stdout]).toEqual([1, ""]);
  expect(wrong.stderr).toMatch(/compose\.yaml:4:\d+: services\.web\.restrat: /);
  expect(wrong.stderr).toMatch(/^COMPOSE_INVALID$/m);
}, 120_000);
