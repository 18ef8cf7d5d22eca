/** Ends the holder of the run's PostgreSQL and waits until it has cleaned up. */
import { inOrder } from "../config.ts";
import type { WithHolder } from "./global-setup.ts";
import { holderKey } from "./global-setup.ts";

/** An orderly stop of the PostgreSQL takes 12 s at most. */
const endWithinMs = 20_000;

export default async function globalTeardown(): Promise<void> {
  const holder = (globalThis as WithHolder)[holderKey];
  if (holder === undefined || holder.exitCode !== null || holder.signalCode !== null) return;
  const timer = setTimeout(() => holder.kill("SIGKILL"), endWithinMs);
  await new Promise<void>((resolve) => {
    holder.once("exit", () => resolve());
    holder.stdin?.end(inOrder);
  });
  clearTimeout(timer);
}
