import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { afterAll, expect, test } from "@jest/globals";
import { type Ending, endingsKey, runEndings } from "./endings.ts";
import { temporaryFolder } from "./folders.ts";
import { findLeaks, takeSnapshot } from "./leaks.ts";
import { isRunning, runProcess, startProcess } from "./processes.ts";
import { until } from "./until.ts";

const ofTheFile = temporaryFolder();
let ofTheFirstTest: { folder: string; pid: number };

test("a folder and a process are there while the test runs that asked for them", async () => {
  const folder = temporaryFolder();
  const running = startProcess({ command: ["node", "-e", "console.log('up'); setInterval(() => {}, 1000)"] });
  await running.untilLine("up");
  ofTheFirstTest = { folder, pid: running.pid };
  expect(existsSync(folder)).toBe(true);
});

test("after it they are gone, and what the file asked for is still there", () => {
  expect(existsSync(ofTheFirstTest.folder)).toBe(false);
  expect(isRunning(ofTheFirstTest.pid)).toBe(false);
  expect(existsSync(ofTheFile)).toBe(true);
});

afterAll(() => {
  if (!existsSync(ofTheFile)) throw new Error("the file's folder ended before its afterAll");
});

test("ends run in reverse order, and one that fails does not keep the others from running", async () => {
  const order: number[] = [];
  const errors = await runEndings([
    () => void order.push(1),
    () => Promise.reject(new Error("two")),
    () => void order.push(3),
  ]);
  expect(order).toEqual([3, 1]);
  expect(errors).toEqual([new Error("two")]);
});

test("one that never comes to its end is told, and the others run", async () => {
  const order: number[] = [];
  const hangs = (): Promise<void> => new Promise(() => {});
  const errors = await runEndings([() => void order.push(1), hangs], 10);
  expect(order).toEqual([1]);
  expect(String(errors[0])).toContain("did not end within 10 ms");
});

test("a server, a process and a timer that were left behind are named, and nothing once they are gone", async () => {
  const before = takeSnapshot();
  const server = createServer().listen(0, "127.0.0.1");
  const running = startProcess({ command: ["sleep", "1000"] });
  const timer = setInterval(() => {}, 1000);
  const leaks = (await findLeaks(before)).join("\n");
  expect(leaks).toContain("sleep 1000");
  expect(leaks).toContain("Server at");
  expect(leaks).toContain("timers still run");
  server.close();
  clearInterval(timer);
  await running.end();
  expect(await findLeaks(before)).toEqual([]);
});

test("a process that still works in a test's folder is named at its end, and the folder goes all the same", async () => {
  const endings: Ending[] = [];
  const register = globalThis as { [endingsKey]?: { add: (ending: Ending) => void } };
  const real = register[endingsKey];
  register[endingsKey] = { add: (ending) => void endings.push(ending) };
  const folder = temporaryFolder();
  register[endingsKey] = real as NonNullable<typeof real>;
  const running = startProcess({ command: ["sleep", "1000"], cwd: folder });
  await until(() => isRunning(running.pid));
  const [error] = await runEndings(endings);
  expect((error as Error).message).toContain(`${running.pid} sleep 1000`);
  expect(existsSync(folder)).toBe(false);
}, 60_000);

test("a process that ignores SIGTERM and one that it started are killed all the same", async () => {
  const child = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)";
  const parent = `const { pid } = require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(child)}]);
    console.log('child', pid)`;
  const running = startProcess({ command: ["node", "-e", `${parent}; setInterval(() => {}, 1000)`] });
  const pid = Number((await running.untilLine("child")).split(" ")[1]);
  await running.end();
  await until(() => !isRunning(pid));
});

test("waiting for a line fails at once, with the output, when the process ends without it", async () => {
  const running = startProcess({ command: ["node", "-e", "console.error('what went wrong'); process.exit(3)"] });
  await expect(running.untilLine("ready")).rejects.toThrow(/it ended \(3\).*what went wrong/s);
});

test("a program's input, outputs and exit code are told apart", async () => {
  const program =
    "process.stdin.on('data', (d) => { console.log('out', String(d)); console.error('err'); process.exitCode = 2 })";
  const end = await runProcess({ command: ["node", "-e", program], input: "given" });
  expect(end).toMatchObject({ code: 2, signal: null, stdout: "out given\n", stderr: "err\n" });
});

test("waiting for a condition that never holds ends with what was waited for and the last error", async () => {
  const never = () => Promise.reject(new Error("not today"));
  await expect(until(never, { withinMs: 30, what: "the impossible" })).rejects.toThrow(/the impossible.*not today/);
});
