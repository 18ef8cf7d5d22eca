/** `npm start` as a newcomer runs it: the real command, a data directory of its own, free ports. */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import {
  atEnd,
  isRunning,
  runProcess,
  type RunningProcess,
  startProcess,
  temporaryFolder,
  until,
} from "@bowline/testing";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** A cold start on two busy cores. */
const startWithinMs = 60_000;
/** What the README promises. */
const goneWithinMs = 10_000;

interface Dev {
  url: string;
  adminToken: string;
  clusterId: string;
  agentId: string;
  productPublishId: string;
  gatewayUrl: string;
}

async function start(dataDir: string, ...flags: string[]): Promise<RunningProcess> {
  const npm = startProcess({
    command: ["npm", "start", "--", "--port", "0", "--data-dir", dataDir, ...flags],
    cwd: root,
  });
  await npm.untilOutput(/Ctrl-C stops everything/, { withinMs: startWithinMs });
  return npm;
}

function facts(dataDir: string): Dev {
  return JSON.parse(readFileSync(join(dataDir, "dev.json"), "utf8")) as Dev;
}

/** Every process whose command line, environment or folder names the data directory; a workload only has its folder there. */
function processesOf(dataDir: string): number[] {
  const names = (file: string): boolean => {
    try {
      return readFileSync(file, "utf8").includes(dataDir);
    } catch {
      return false; // it has ended while we looked
    }
  };
  const isIn = (link: string): boolean => {
    try {
      return readlinkSync(link).startsWith(dataDir);
    } catch {
      return false; // the same
    }
  };
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => names(`/proc/${name}/cmdline`) || names(`/proc/${name}/environ`) || isIn(`/proc/${name}/cwd`))
    .map(Number)
    .filter(isRunning);
}

async function nothingLeft(dataDir: string): Promise<void> {
  await until(() => processesOf(dataDir).length === 0, {
    withinMs: goneWithinMs,
    what: "everything of npm start to be gone",
  });
}

async function curl(line: string): Promise<string> {
  const { stdout } = await runProcess({ command: ["bash", "-c", line.replace("curl ", "curl -sS --fail ")] });
  return stdout;
}

async function refused(...flags: string[]): Promise<string> {
  const end = await runProcess({ command: ["npm", "start", "--", ...flags], cwd: root });
  expect(end.code).not.toBe(0);
  return `${end.stdout}${end.stderr}`;
}

test("the curl lines that it prints answer; dev.json has what scripts need; a start beside it is refused in words; a later one reuses all of it; SIGTERM to npm leaves nothing", async () => {
  const dataDir = temporaryFolder();
  const first = await start(dataDir);
  const lines = first
    .stdout()
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line.startsWith("curl "));
  expect(lines).toHaveLength(2);
  for (const line of lines) expect((await curl(line)).length).toBeGreaterThan(0);
  const before = facts(dataDir);
  expect(statSync(join(dataDir, "dev.json")).mode & 0o777).toBe(0o600);
  expect(statSync(join(dataDir, "admin-token")).mode & 0o777).toBe(0o600);
  expect(
    await curl(
      `curl -H 'Authorization: Bearer ${before.adminToken}' ${before.url}/v1/provider/product-publishes/${before.productPublishId}`,
    ),
  ).toContain('"state":"LIVE"');
  expect(await refused("--port", "0", "--data-dir", dataDir)).toMatch(/in use.*--data-dir/s);
  first.kill("SIGTERM");
  await first.ended;
  await nothingLeft(dataDir);

  const second = await start(dataDir);
  expect(second.stdout()).not.toContain("embedded, new");
  expect(second.stdout()).not.toContain("enrolled");
  expect(facts(dataDir)).toMatchObject({
    clusterId: before.clusterId,
    agentId: before.agentId,
    adminToken: before.adminToken,
  });
  expect(await curl(`curl ${facts(dataDir).gatewayUrl}/hello`)).toContain("Hello");
  second.kill("SIGTERM");
  await second.ended;
  await nothingLeft(dataDir);
}, 150_000);

test("two at once keep out of each other's way; kill -9 of a server, and of npm start itself, leaves nothing", async () => {
  const folders = [temporaryFolder(), temporaryFolder()] as const;
  const [one, two] = await Promise.all(folders.map((folder) => start(folder)));
  for (const folder of folders) expect(await curl(`curl ${facts(folder).gatewayUrl}/hello`)).toContain("Hello");
  const { pid } = JSON.parse(readFileSync(join(folders[0], "server.json"), "utf8")) as { pid: number };
  process.kill(pid, "SIGKILL");
  await one?.ended;
  await nothingLeft(folders[0]);
  expect(await curl(`curl ${facts(folders[1]).gatewayUrl}/hello`)).toContain("Hello");
  for (const child of processesOf(folders[1])) {
    try {
      if (readFileSync(`/proc/${child}/cmdline`, "utf8").includes("services/dev/src/main.ts"))
        process.kill(child, "SIGKILL");
    } catch {
      continue; // one of PostgreSQL's comes and goes, and a shell ends with what it started
    }
  }
  await two?.ended;
  await nothingLeft(folders[1]);
}, 150_000);

test("a port in use and a folder that cannot be written are refused in words, with a way out", async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, "127.0.0.1", () => resolve()));
  const { port } = holder.address() as AddressInfo;
  atEnd(() => new Promise<void>((resolve) => holder.close(() => resolve())));
  expect(await refused("--port", String(port), "--data-dir", temporaryFolder())).toMatch(
    new RegExp(`port ${port} is in use.*--port`, "s"),
  );
  expect(await refused("--port", "0", "--data-dir", "/proc/bowline")).toMatch(/cannot be written.*--data-dir/s);
}, 120_000);
