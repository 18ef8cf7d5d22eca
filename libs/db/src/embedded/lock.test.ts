import { expect, test } from "@jest/globals";
import { startProcess, temporaryFolder } from "@bowline/testing";
import { lockFolder } from "./lock.ts";

const program = `
  const { lockFolder } = await import(${JSON.stringify(new URL("./lock.ts", import.meta.url).href)});
  globalThis.lock = lockFolder(process.argv[1]); // held on to, as a server does; collected, it would let go
  console.log("held", globalThis.lock.held);
  setInterval(() => {}, 1000);
`;

test("a lock is held once, and free again after its release", () => {
  const folder = temporaryFolder();
  const first = lockFolder(folder);
  expect(first.held).toBe(true);
  expect(lockFolder(folder)).toEqual({ held: false, by: process.pid });
  if (first.held) first.release();
  const second = lockFolder(folder);
  expect(second.held).toBe(true);
  if (second.held) second.release();
});

test("kill -9 of its holder frees a lock", async () => {
  const folder = temporaryFolder();
  const holder = startProcess({ command: ["node", "-e", program, folder] });
  await holder.untilLine("held true");
  expect(lockFolder(folder)).toEqual({ held: false, by: holder.pid });
  holder.kill("SIGKILL");
  await holder.ended;
  const lock = lockFolder(folder);
  expect(lock.held).toBe(true);
  if (lock.held) lock.release();
});
