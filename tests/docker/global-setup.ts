/**
 * Asks for the Docker Engine before any file does: where there is none and none
 * can be started, the run ends with one message that says what is missing, and
 * nothing is skipped.
 */
import { testDocker } from "@bowline/testing";
import holdRun from "../../libs/testing/src/jest/global-setup.ts";
import { onEngine } from "./left.ts";

/** Where the teardown, in the same process, finds what was on the engine before. */
export const beforeKey: unique symbol = Symbol.for("bowline.docker.before") as never;
export type WithBefore = { [beforeKey]?: ReadonlySet<string> };

export default async function globalSetup(config: unknown, project: { rootDir: string }): Promise<void> {
  await holdRun(config, project);
  (globalThis as WithBefore)[beforeKey] = await onEngine(await testDocker());
}
