/** What the end of a jest run ends, with a holder of the test's own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { holderSocketVariable, inOrder } from "../config.ts";
import { atEnd } from "../endings.ts";
import { isPaused, isRunning, type RunningProcess, startProcess } from "../processes.ts";
import { until } from "../until.ts";

const program = fileURLToPath(new URL("./holder.ts", import.meta.url));

/** As global-setup.ts starts it. */
async function startHolder() {
  const holder = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"], detached: true });
  const ended = once(holder, "exit");
  atEnd(async () => {
    holder.kill("SIGKILL");
    await ended;
  });
  const [line] = (await once(holder.stdout.setEncoding("utf8"), "data")) as [string];
  return { socket: line.trim(), ended, stdin: holder.stdin };
}

/** A process of that run which ignores SIGTERM, and one that it started into a group of its own. */
async function startStubborn(socket: string): Promise<{ running: RunningProcess; child: number }> {
  const source = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)";
  const parent = `const { pid } = require('child_process').spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' });
    ${source}; console.log('child', pid)`;
  const running = startProcess({ command: ["node", "-e", parent], env: { [holderSocketVariable]: socket } });
  const child = Number((await running.untilLine("child")).split(" ")[1]);
  atEnd(() => {
    if (isRunning(child)) process.kill(child, "SIGKILL");
  });
  return { running, child };
}

test("a run that is killed takes its processes with it, also one that ignores SIGTERM, one that is paused, and one of another group", async () => {
  const holder = await startHolder();
  const { running, child } = await startStubborn(holder.socket);
  const paused = startProcess({ command: ["sleep", "1000"], env: { [holderSocketVariable]: holder.socket } });
  paused.kill("SIGSTOP");
  await until(() => isPaused(paused.pid));
  const another = startProcess({ command: ["sleep", "1000"] });
  holder.stdin.destroy();
  await holder.ended;
  // A killed process has no environment any more, by which the holder knows it, a moment before it is gone.
  await until(() => ![running.pid, paused.pid, child].some(isRunning));
  expect(isRunning(another.pid)).toBe(true); // of the run that runs this test
});

test("a run that ends in order leaves its end to the tests", async () => {
  const holder = await startHolder();
  const running = startProcess({ command: ["sleep", "1000"], env: { [holderSocketVariable]: holder.socket } });
  await until(() => isRunning(running.pid));
  holder.stdin.end(inOrder);
  await holder.ended;
  expect(isRunning(running.pid)).toBe(true);
});
