import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readlink, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "@jest/globals";

const run = promisify(execFile);
const script = resolve(import.meta.dirname, "../../scripts/link-node.js");
const packageName = `node-${process.platform}-${process.arch}`;

let folder: string;
let link: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "bowline-link-node-"));
  link = join(folder, "node_modules/.bin/node");
  await mkdir(join(folder, "scripts"));
  await copyFile(script, join(folder, "scripts/link-node.mjs"));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const linkNode = (): Promise<unknown> => run(process.execPath, [join(folder, "scripts/link-node.mjs")]);

test("the platform's Node is what npm scripts find, whatever npm has left there", async () => {
  await mkdir(join(folder, "node_modules", packageName, "bin"), { recursive: true });
  await symlink(process.execPath, join(folder, "node_modules", packageName, "bin/node"));

  await linkNode(); // npm removed the link, and the folder with it
  expect(await readlink(link)).toBe(join("..", packageName, "bin/node"));

  await rm(link);
  await symlink("../node-of-another-platform/bin/node", link); // npm left the wrong one
  await linkNode();
  expect(await readlink(link)).toBe(join("..", packageName, "bin/node"));
  expect((await run(link, ["--version"])).stdout.trim()).toBe(process.version);
});

test("without a package for the platform, a Node that is new enough serves", async () => {
  await linkNode();
  await expect(readlink(link)).rejects.toThrow("ENOENT");
});
