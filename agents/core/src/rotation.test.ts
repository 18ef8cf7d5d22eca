/** What the disk does to a change of keys. The change itself: tests/e2e/hosts.test.ts, tests/faults/agent-keys.test.ts. */
import { mkdirSync, readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { systemClock } from "@bowline/kernel";
import { temporaryFolder } from "@bowline/testing";
import { openKeyStore } from "./keys.ts";
import { createRotation } from "./rotation.ts";
import { askForRotation, readRequest } from "./rotation-request.ts";
import type { SessionCalls } from "./serve.ts";

test("a file that cannot be read is told, and looked at again in the same session", async () => {
  const dataDir = temporaryFolder();
  const keys = await openKeyStore(dataDir);
  const request = join(dataDir, "rotate-key.json");
  mkdirSync(request);
  const over = new AbortController();
  const told: object[] = [];
  const waits: number[] = [];
  const sleep = async (ms: number): Promise<void> => {
    waits.push(ms);
    if (waits.length === 1) rmdirSync(request);
    else over.abort();
  };
  const error = (fields: object): void => void told.push(fields);
  const rotation = createRotation({
    ...{ keys, dataDir, keyMaxAgeMs: 0, enrolled: { agentId: "agent_1", installationId: "inst_1" } },
    clock: { ...systemClock, sleep },
    log: { debug: error, info: error, warn: error, error },
  });
  const unused = {} as SessionCalls; // nothing is due
  await rotation.run(unused, over.signal);
  expect(told).toEqual([{ error: expect.stringContaining("EISDIR"), againInMs: waits[0] }]);
  expect(waits).toHaveLength(2);
});

test("who asks for new keys leaves one file, whole", async () => {
  const dataDir = temporaryFolder();
  await askForRotation(dataDir, "thumbprint");
  expect(await readRequest(dataDir)).toEqual({ state: "asked", key: "thumbprint" });
  expect(readdirSync(dataDir)).toEqual(["rotate-key.json"]);
});
