/**
 * The import rules of .dependency-cruiser.mjs catch what they are for: a small
 * tree of the same shape, with what is allowed and one violation of each rule.
 */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";

const root = resolve(import.meta.dirname, "../..");

const packages = {
  "libs/kernel": "kernel",
  "libs/contract": "contract",
  "libs/session": "session",
  "libs/auth": "auth",
  "libs/dial": "dial",
  "libs/start": "start",
  "libs/compose": "compose",
  "libs/db": "db",
  "libs/testing": "testing",
  "services/control-plane": "control-plane",
  "services/cli": "cli",
  "services/dev": "dev",
  "agents/core": "agent-core",
  "agents/docker": "agent-docker",
  "agents/local": "agent-local",
  "agents/dataplanes/embedded": "dataplane-embedded",
  "agents/dataplanes/nginx": "dataplane-nginx",
};

const registryPackages = ["@bufbuild/protobuf", "@bufbuild/protovalidate", "pg", "dockerode", "yaml", "undeclared"];

/** Files and what they import; none of it breaks a rule. */
const allowed: Record<string, string[]> = {
  "libs/contract/src/options.ts": ["@bufbuild/protobuf", "@bufbuild/protovalidate"],
  "libs/contract/scripts/print.ts": ["node:fs"],
  "libs/kernel/src/ids.test.ts": ["node:events", "./index.ts"],
  "libs/session/src/stream.ts": ["@bowline/kernel", "@bowline/contract", "node:http2"],
  "libs/session/src/stream.test.ts": ["@bowline/testing", "@bowline/db"],
  "libs/compose/src/read.ts": ["yaml", "./model.ts"],
  "libs/compose/src/model.ts": [],
  "libs/db/src/pool.ts": ["pg", "@bowline/kernel"],
  "libs/testing/src/postgres.ts": ["@bowline/db", "@bowline/session"],
  "services/control-plane/src/main.ts": ["./compose.ts", "@bowline/start"],
  "services/control-plane/src/compose.ts": ["./commands/index.ts", "./commands/rpc.ts", "./platform/events.ts"],
  "services/control-plane/src/platform/events.ts": ["@bowline/db"],
  "services/control-plane/src/commands/index.ts": ["./rpc.ts"],
  "services/control-plane/src/commands/rpc.ts": ["../platform/events.ts", "../clusters/index.ts", "@bowline/auth"],
  "services/control-plane/src/commands/rpc.test.ts": ["@bowline/testing", "./rpc.ts"],
  "services/control-plane/src/clusters/index.ts": [],
  "services/control-plane/src/clusters/model.ts": [],
  "services/control-plane/src/sessions/claim.ts": ["../commands/index.ts", "@bowline/session"],
  "services/cli/src/main.ts": [
    "@bowline/start",
    "@bowline/contract",
    "@bowline/kernel",
    "@bowline/dial",
    "@bowline/compose",
  ],
  "services/dev/src/main.ts": ["@bowline/kernel", "node:child_process"],
  "agents/core/src/connect.ts": ["@bowline/session", "@bowline/auth", "@bowline/dial", "@bowline/kernel"],
  "agents/docker/src/workloads.ts": ["@bowline/agent-core", "@bowline/contract", "dockerode"],
  "agents/docker/src/main.ts": [
    ...["@bowline/start", "@bowline/agent-core", "@bowline/dataplane-nginx", "@bowline/dataplane-embedded"],
  ],
  "agents/dataplanes/nginx/src/main.ts": ["@bowline/start"],
  "agents/dataplanes/nginx/src/proxy.ts": ["@bowline/agent-core", "@bowline/kernel"],
  "tests/e2e/publish.test.ts": ["@bowline/testing", "@bowline/agent-core", "@bowline/db"],
  "bench/scenarios/claim.ts": ["@bowline/testing"],
  "bench/peers/a.ts": ["../../services/control-plane/src/platform/events.ts"],
};

/** Each rule, a file that breaks it and nothing else, and its import. */
const planted: [rule: string, file: string, imports: string][] = [
  ["kernel-imports-nothing", "libs/kernel/src/a.ts", "node:fs"],
  ["kernel-imports-nothing", "libs/kernel/src/b.ts", "@bowline/contract"],
  ["contract-imports-protobuf-only", "libs/contract/src/a.ts", "node:fs"],
  ["contract-imports-protobuf-only", "libs/contract/src/b.ts", "@bowline/kernel"],
  ["libs-import-kernel-and-contract", "libs/session/src/a.ts", "@bowline/auth"],
  ["libs-import-kernel-and-contract", "libs/session/src/d.ts", "@bowline/dial"],
  ["compose-reads-nothing", "libs/compose/src/a.ts", "node:fs"],
  ["compose-reads-nothing", "libs/compose/src/b.ts", "@bowline/contract"],
  ["libs-import-no-deployable", "libs/session/src/b.ts", "@bowline/agent-core"],
  ["libs-import-no-deployable", "libs/testing/src/a.ts", "@bowline/control-plane"],
  ["testing-is-for-tests", "services/control-plane/src/clusters/a.ts", "@bowline/testing"],
  ["slices-meet-at-front-doors", "services/control-plane/src/commands/a.ts", "../clusters/model.ts"],
  ["slices-meet-at-front-doors", "services/control-plane/src/sessions/a.ts", "../compose.ts"],
  ["slices-meet-at-front-doors", "services/control-plane/src/sessions/b.test.ts", "../clusters/model.ts"],
  ["platform-knows-no-slice", "services/control-plane/src/platform/a.ts", "../clusters/index.ts"],
  ["services-import-no-deployable", "services/control-plane/src/sessions/c.ts", "@bowline/agent-core"],
  ["services-import-no-deployable", "services/dev/src/a.ts", "@bowline/control-plane"],
  ["clients-import-contract-and-kernel", "services/cli/src/a.ts", "@bowline/auth"],
  ["agents-import-no-service", "agents/core/src/a.ts", "@bowline/control-plane"],
  ["agents-import-no-service", "agents/core/src/b.ts", "pg"],
  ["agent-core-imports", "agents/core/src/c.ts", "@bowline/dataplane-embedded"],
  ["agent-core-imports", "agents/core/src/d.ts", "@bowline/db"],
  ["runtimes-know-no-sibling", "agents/docker/src/a.ts", "@bowline/agent-local"],
  ["runtimes-know-no-sibling", "agents/docker/src/b.ts", "@bowline/dataplane-nginx"],
  ["runtimes-know-no-sibling", "agents/docker/src/c.ts", "@bowline/session"],
  ["runtimes-know-no-sibling", "agents/docker/src/e.ts", "@bowline/start"],
  ["runtime-main-adds-dataplanes", "agents/local/src/main.ts", "@bowline/agent-docker"],
  ["dataplanes-know-no-sibling", "agents/dataplanes/nginx/src/a.ts", "@bowline/dataplane-embedded"],
  ["tests-use-front-doors", "tests/e2e/a.test.ts", "../../services/control-plane/src/clusters/model.ts"],
  ["tests-use-front-doors", "bench/a.ts", "../agents/docker/src/workloads.ts"],
  ["peers-stand-on-the-platform", "bench/peers/b.ts", "../../services/control-plane/src/clusters/model.ts"],
  ["packages-by-name", "libs/session/src/c.ts", "../../kernel/src/index.ts"],
  ["dependencies-are-declared", "agents/docker/src/d.ts", "undeclared"],
  ["imports-resolve", "services/cli/src/b.ts", "./nowhere.ts"],
];

/** Violations that take two files. */
const plantedInPairs: [rule: string, files: Record<string, string>][] = [
  ["no-circles", { "services/cli/src/c.ts": "./d.ts", "services/cli/src/d.ts": "./c.ts" }],
  [
    "slices-have-no-circles",
    {
      "services/control-plane/src/products/index.ts": "../stacks/index.ts",
      "services/control-plane/src/stacks/index.ts": "@bowline/kernel",
      "services/control-plane/src/stacks/model.ts": "../products/index.ts",
    },
  ],
  [
    "tests-beside-use-front-doors",
    { "agents/local/src/a.test.ts": "@bowline/agent-docker/inside", "agents/docker/src/inside.ts": "@bowline/kernel" },
  ],
];

type Found = { rule: string; from: string };
let folder: string;
let found: Found[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "bowline-imports-"));
  await writePackages();
  for (const [file, imports] of Object.entries(allowed)) await writeModule(file, imports);
  for (const [, file, imported] of planted) await writeModule(file, [imported]);
  for (const [, files] of plantedInPairs) {
    for (const [file, imported] of Object.entries(files)) await writeModule(file, [imported]);
  }
  found = await cruise();
});

afterAll(() => rm(folder, { recursive: true, force: true }));

test("what the house allows breaks no rule", () => {
  expect(found.filter(({ from }) => from in allowed)).toEqual([]);
});

describe("a planted violation is found, by its rule and no other", () => {
  test.each(planted)("%s: %s imports %s", (rule, file) => {
    expect(found.filter(({ from }) => from === file)).toEqual([{ rule, from: file }]);
  });
  test.each(plantedInPairs)("%s: several files", (rule, files) => {
    const places = found.filter(({ from }) =>
      Object.keys(files).some((file) => file === from || dirname(file) === from),
    );
    expect(new Set(places.map((place) => place.rule))).toEqual(new Set([rule]));
  });
});

test("every rule has a planted violation", async () => {
  const rules: string = pathToFileURL(join(root, ".dependency-cruiser.mjs")).href;
  const config = (await import(rules)) as { default: { forbidden: { name: string }[] } };
  const names = config.default.forbidden.map(({ name }) => name);
  expect(new Set([...planted, ...plantedInPairs].map(([rule]) => rule))).toEqual(new Set(names));
});

async function writePackages(): Promise<void> {
  for (const name of registryPackages) {
    await writeFiles(`node_modules/${name}`, { name, exports: "./index.ts" }, "index.ts");
  }
  await mkdir(join(folder, "node_modules/@bowline"), { recursive: true });
  for (const [path, name] of Object.entries(packages)) {
    const dependencies = Object.fromEntries(registryPackages.slice(0, -1).map((declared) => [declared, "1.0.0"]));
    const exported = { ".": "./src/index.ts", "./inside": "./src/inside.ts" };
    await writeFiles(
      path,
      { name: `@bowline/${name}`, type: "module", exports: exported, dependencies },
      "src/index.ts",
    );
    await symlink(join(folder, path), join(folder, "node_modules/@bowline", name));
  }
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "planted", type: "module" }));
}

async function writeFiles(path: string, manifest: object, module: string): Promise<void> {
  await writeModule(join(path, module), []);
  await writeFile(join(folder, path, "package.json"), JSON.stringify({ version: "1.0.0", ...manifest }));
}

async function writeModule(path: string, imports: readonly string[]): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  const lines = imports.map((imported) => `import type {} from ${JSON.stringify(imported)};\n`);
  await writeFile(join(folder, path), `${lines.join("")}export {};\n`);
}

async function cruise(): Promise<Found[]> {
  const program = join(root, "node_modules/dependency-cruiser/bin/dependency-cruiser.mjs");
  const rules = join(root, ".dependency-cruiser.mjs");
  const report = await new Promise<string>((done, fail) => {
    execFile(
      process.execPath,
      [program, "--config", rules, "-T", "json", "libs", "services", "agents", "tests", "bench"],
      { cwd: folder, maxBuffer: 64 * 1024 * 1024, timeout: 120_000 },
      // A violation is exit code 0 here: the report tells.
      (error, stdout, stderr) => (error === null ? done(stdout) : fail(new Error(`${error.message}\n${stderr}`))),
    );
  });
  const { summary } = JSON.parse(report) as { summary: { violations: { from: string; rule: { name: string } }[] } };
  return summary.violations.map(({ from, rule }) => ({ rule: rule.name, from }));
}
