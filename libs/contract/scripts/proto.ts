/**
 * What `npm run generate` and `npm run proto:*` call.
 *
 *   third-party.ts  the protos of others, out of npm packages
 *   print-proto.ts  a descriptor printed as .proto source
 *
 * Runs buf at the root of the checkout, offline.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { writeThirdPartyProtos } from "./third-party.ts";

const root = resolve(import.meta.dirname, "../../..");
const generated = "libs/contract/src/gen";
const released = "proto/released.binpb";

/** Generous for a cold start on a busy machine; a healthy run takes a second or two. */
const bufTimeoutMs = 120_000;

const commands: Record<string, (folder?: string) => number> = {
  "third-party": () => 0,
  generate: () => buf("generate"),
  lint: () => buf("lint"),
  breaking,
  release: () => buf("build", "proto", "-o", released),
  check,
  export: exportProtos,
};

/** Compares with the last release, which only a release updates: comparing with HEAD would compare nothing. */
function breaking(): number {
  if (!existsSync(join(root, released))) {
    console.log(`${released} does not exist: nothing is released yet, so nothing can break.`);
    return 0;
  }
  return buf("breaking", "proto", "--against", released, "--exclude-imports");
}

/** Generates into a folder of its own and compares: what is in git must be what the protos say. */
function check(): number {
  const folder = mkdtempSync(join(tmpdir(), "bowline-generated-"));
  try {
    const failed = buf("generate", "--output", folder);
    if (failed !== 0) return failed;
    const stale = differences(join(folder, generated), join(root, generated));
    for (const path of stale) console.error(`${join(generated, path)} is not what the protos say`);
    if (stale.length > 0) console.error("Run `npm run generate` and commit the result.");
    return stale.length > 0 ? 1 : 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function differences(expected: string, actual: string): string[] {
  const paths = new Set([...filesBelow(expected), ...filesBelow(actual)]);
  return [...paths].toSorted().filter((path) => text(join(expected, path)) !== text(join(actual, path)));
}

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

function text(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** Everything that proto-loader, grpcurl or another language's compiler needs, in one include folder. */
function exportProtos(folder?: string): number {
  if (folder === undefined) {
    console.error("usage: npm run proto:export -- FOLDER");
    return 2;
  }
  const target = resolve(process.env["INIT_CWD"] ?? ".", folder); // where the person stood when they called npm
  cpSync(join(root, "proto"), target, { recursive: true, filter: (source) => !source.endsWith(".binpb") });
  writeThirdPartyProtos(target);
  console.log(`Wrote the protos to ${target}.`);
  return 0;
}

function buf(...args: string[]): number {
  const run = spawnSync(join(root, "node_modules/.bin/buf"), args, {
    cwd: root,
    stdio: "inherit",
    timeout: bufTimeoutMs,
  });
  if (run.error !== undefined) console.error(`buf ${args.join(" ")}: ${run.error.message}`);
  return run.status ?? 1;
}

const [name = "", ...rest] = process.argv.slice(2);
const command = commands[name];
if (command === undefined) {
  console.error(`usage: proto.ts ${Object.keys(commands).join("|")}`);
  process.exitCode = 2;
} else {
  writeThirdPartyProtos(join(root, ".protos"));
  process.exitCode = command(...rest);
}
