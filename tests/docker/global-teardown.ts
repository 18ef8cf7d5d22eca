/** Ends the run's engine, and fails the run for what its files left on it, or what the engine left here. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { testDocker, testSettings } from "@bowline/testing";
import endRun from "../../libs/testing/src/jest/global-teardown.ts";
import { beforeKey, type WithBefore } from "./global-setup.ts";
import { onEngine } from "./left.ts";

export default async function globalTeardown(): Promise<void> {
  const left: string[] = [];
  let folder: string | undefined;
  try {
    const before = (globalThis as WithBefore)[beforeKey];
    if (before === undefined) return; // there was no engine
    const docker = await testDocker();
    left.push(...[...(await onEngine(docker))].filter((line) => !before.has(line)));
    const own = testSettings().dockerHost === undefined;
    if (own) folder = dirname(docker.host.replace(/^unix:\/\//, ""));
  } finally {
    await endRun();
  }
  if (folder !== undefined) left.push(...hereOf(folder));
  if (left.length > 0) throw new Error(`the Docker tests leave behind:\n  ${left.join("\n  ")}`);
}

/** What is left of an engine that had its data in `folder`. */
function hereOf(folder: string): string[] {
  const processes = readdirSync("/proc").flatMap((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      return /^\d+$/.test(pid) && command.includes(folder) ? [`process ${pid} ${command}`] : [];
    } catch {
      return []; // it ended while we looked
    }
  });
  const mounts = readFileSync("/proc/self/mounts", "utf8").split("\n");
  return [
    ...processes,
    ...(existsSync(folder) ? [`folder ${folder}`] : []),
    ...mounts.filter((line) => line.includes(folder)).map((line) => `mount ${line}`),
  ];
}
