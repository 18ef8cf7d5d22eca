/**
 * After `npm install`: puts this platform's Node 24 at node_modules/.bin/node,
 * where every npm script finds it first. npm before 11.6 removes that link when
 * it discards the other platform's package, and scripts would then run whatever
 * Node the user has, in silence.
 *
 * Plain JavaScript, because it runs under the user's own Node (20 or newer).
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The first Node that runs TypeScript sources directly, without a flag. */
const oldestThatServes = [22, 18];

const modules = join(dirname(fileURLToPath(import.meta.url)), "..", "node_modules");
const packageName = `node-${process.platform}-${process.arch}`;
const binary = join(modules, packageName, "bin", "node");

if (existsSync(binary)) {
  const link = join(modules, ".bin", "node");
  const next = `${link}.${process.pid}`;
  mkdirSync(dirname(link), { recursive: true });
  rmSync(next, { force: true });
  symlinkSync(join("..", packageName, "bin", "node"), next);
  renameSync(next, link); // in one step: a script that starts meanwhile sees the old or the new one
  execFileSync(link, ["--version"], { stdio: "ignore" }); // a binary that can't run here fails the install, not the first script
} else {
  const [major, minor] = process.versions.node.split(".").map(Number);
  const serves = major > oldestThatServes[0] || (major === oldestThatServes[0] && minor >= oldestThatServes[1]);
  if (!serves) {
    console.error(
      `Bowline needs Node ${oldestThatServes.join(".")} or newer; this is ${process.version}, and there is no package ` +
        `${packageName} that brings one. On Linux: run npm without --omit=optional. Elsewhere: install a newer Node.`,
    );
    process.exit(1);
  }
}
