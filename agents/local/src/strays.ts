/** Processes of a deployment that its slots have lost sight of. */
import type { HeldDeployment } from "./deployments.ts";
import { killRun, markedProcesses } from "./processes.ts";

/** Ends processes that carry this deployment's marker and that no slot knows: a newer wish of it names them (R2). */
export async function endStrays(held: HeldDeployment, runtimeId: string): Promise<void> {
  const known = new Set<string>();
  for (const instance of held.slots.values()) {
    const phase = instance.phase();
    if ("live" in phase) known.add(phase.live.record.run);
    if (phase.kind === "starting") return; // its run has no name yet; the next converge looks again
  }
  const strays = markedProcesses(runtimeId).filter(
    ({ instance, run }) => instance.startsWith(`${held.record.id}/`) && !known.has(run),
  );
  for (const run of new Set(strays.map((stray) => stray.run))) {
    await killRun({ run, pid: 0, startTime: "", bootId: "", groupIsOurs: false });
  }
}
