import { readdirSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { systemClock } from "@bowline/kernel";
import { atEnd, temporaryFolder, until } from "@bowline/testing";
import { createHealth, healthCommand } from "./health.ts";

/** An agent's health on a folder of its own, told until `stop`. */
function tellHealth(problem = "", beforeItAnswers: () => Promise<void> = async () => undefined) {
  const dataDir = temporaryFolder();
  const describe = async () => {
    await beforeItAnswers();
    return { problem } as never;
  };
  const health = createHealth({ dataDir, runtime: { describe }, clock: systemClock });
  const ending = new AbortController();
  const running = health.run(ending.signal);
  const reason = async () => (await healthCommand(dataDir)).json["reason"];
  const stop = async (): Promise<void> => {
    ending.abort();
    await running;
  };
  atEnd(stop);
  return { dataDir, health, reason, stop };
}

test("an agent is healthy while it holds a session, and says since when it holds none", async () => {
  const { dataDir, health, reason, stop } = tellHealth();
  await until(async () => (await reason()) === "NOT_CONNECTED");
  const session = new AbortController();
  health.serving(session.signal);
  await until(async () => (await healthCommand(dataDir)).exitCode === 0);
  session.abort();
  await until(async () => (await reason()) === "NOT_CONNECTED");
  expect((await healthCommand(dataDir)).json).toMatchObject({ ok: false, since: expect.stringMatching(/^\d{4}-.*Z$/) });
  await stop();
});

test("a session that comes while the runtime is still asked how it is counts", async () => {
  const [asked, answers] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const { dataDir, health, stop } = tellHealth("", () => {
    asked.resolve();
    return answers.promise;
  });
  await asked.promise;
  health.serving(new AbortController().signal);
  answers.resolve();
  await until(async () => (await healthCommand(dataDir)).exitCode === 0);
  await stop();
});

test("an agent whose runtime complains is not healthy, with a session too", async () => {
  const { dataDir, health, reason, stop } = tellHealth("the Docker Engine is away");
  health.serving(new AbortController().signal);
  await until(async () => (await reason()) === "RUNTIME_PROBLEM");
  expect((await healthCommand(dataDir)).text).toContain("the Docker Engine is away");
  await stop();
});

test("an agent that stands still or has ended is not healthy, whatever it said last", async () => {
  const { dataDir, health, stop } = tellHealth();
  health.serving(new AbortController().signal);
  await until(async () => (await healthCommand(dataDir)).exitCode === 0);
  const later = (): number => Date.now() + 60_000;
  expect((await healthCommand(dataDir, later)).json["reason"]).toBe("NOT_RUNNING");
  await stop();
  expect(readdirSync(dataDir)).toEqual([]);
  expect((await healthCommand(dataDir)).json["reason"]).toBe("NOT_RUNNING");
});
