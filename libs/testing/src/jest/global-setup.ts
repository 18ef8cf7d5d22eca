/** Starts the holder of the run's PostgreSQL (holder.ts); it starts the database when a file asks. */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compileCacheVariable, holderSocketVariable } from "../config.ts";

/** Where global-teardown.ts finds the process. */
export const holderKey: unique symbol = Symbol.for("bowline.testing.holder") as never;

export type WithHolder = { [holderKey]?: ChildProcess };

export default async function globalSetup(_: unknown, { rootDir }: { rootDir: string }): Promise<void> {
  // Hundreds of servers, agents and CLIs are started in a run: with this only the first of each compiles its sources.
  process.env[compileCacheVariable] ??= join(rootDir, ".cache", "node");
  const program = fileURLToPath(new URL("./holder.ts", import.meta.url));
  // A session of its own, so that Ctrl-C ends it after the files and not before them.
  const holder = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"], detached: true });
  (globalThis as WithHolder)[holderKey] = holder;
  process.env[holderSocketVariable] = await new Promise<string>((resolve, reject) => {
    createInterface({ input: holder.stdout }).once("line", resolve);
    holder.once("error", reject);
    holder.once("exit", (code) => reject(new Error(`the holder of the tests' PostgreSQL ended with ${code}`)));
  });
}
