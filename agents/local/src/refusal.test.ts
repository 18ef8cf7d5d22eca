/** Refusals from what the operating system really says. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { temporaryFolder } from "@bowline/testing";
import { asRefusal, Refusal } from "@bowline/agent-core/runtimes";
import { makeVolumes } from "./volumes.ts";

const caught = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

test("a full disk is DISK_FULL, worth a retry", async () => {
  const error = await caught(writeFile("/dev/full", "x"));
  expect(asRefusal(error)).toMatchObject({ reason: "DISK_FULL", worthRetry: true });
});

test("a folder that cannot be made for a volume is VOLUME_FAILED and names the volume", async () => {
  const dataDir = temporaryFolder();
  await writeFile(join(dataDir, "volumes"), "a file where folders should be");
  const spec = create(DeploymentSchema, { id: "deployment_1", volumes: [{ name: "data" }] });
  const error = await caught(makeVolumes(dataDir, spec));
  expect(error).toBeInstanceOf(Refusal);
  expect(error).toMatchObject({ reason: "VOLUME_FAILED", worthRetry: true });
  expect(String(error)).toContain("volume data");
});

test("any other error is a defect, not a refusal", async () => {
  expect(asRefusal(await caught(writeFile("/nowhere/at/all", "x")))).toBeUndefined();
  expect(asRefusal(new Error("ENOSPC"))).toBeUndefined();
});
