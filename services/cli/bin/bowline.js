#!/usr/bin/env node
/**
 * The installed `bowline` command. Plain JavaScript, because it may be started
 * by an older Node: it hands over to the Node 24 of this checkout, which runs
 * the TypeScript sources directly.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const cli = join(dirname(fileURLToPath(import.meta.url)), "..");
const bundled = join(cli, "..", "..", "node_modules", `node-${process.platform}-${process.arch}`, "bin", "node");
const node = existsSync(bundled) ? bundled : process.execPath;

const child = spawn(node, [join(cli, "src", "main.ts"), ...process.argv.slice(2)], { stdio: "inherit" });

// Ctrl-C reaches the whole group, so the child has it already and decides; a signal to this pid alone is passed on.
process.on("SIGINT", () => {});
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));

child.on("error", (error) => {
  console.error(`bowline: cannot start ${node}: ${error.message}`);
  process.exit(127);
});
child.on("exit", (code, signal) => process.exit(signal === null ? code : 128 + constants.signals[signal]));
