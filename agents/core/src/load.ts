/** How busy this agent's machine is, for heartbeats. Nothing is decided by it here. */
import { statfs } from "node:fs/promises";
import { availableParallelism, freemem, loadavg, totalmem } from "node:os";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CapacitySchema } from "@bowline/contract/agent";

/** Commands that this agent takes at once: above the server's window, so that it is the window that decides. */
export const commandPlaces = 64;

/** Space that the journal needs to go on; below it only what removes or stops is taken. */
export const minDiskFreeBytes = 16n * 1024n * 1024n;

/** In thousandths: work per core over the last minute, and the share of memory that is taken. */
export interface MachineLoad {
  loadMillis: number;
  memoryMillis: number;
}

export function machineLoad(): MachineLoad {
  return {
    loadMillis: Math.round(((loadavg()[0] ?? 0) / availableParallelism()) * 1000),
    memoryMillis: Math.round((1 - freemem() / totalmem()) * 1000),
  };
}

export function capacityOf(facts: {
  load: MachineLoad;
  diskFreeBytes: bigint;
  running: number;
  instanceLimit: number;
  inFlight: number;
}): MessageInitShape<typeof CapacitySchema> {
  const { diskFreeBytes } = facts;
  return {
    ...facts.load,
    running: facts.running,
    limit: facts.instanceLimit,
    placesFree: diskFreeBytes < minDiskFreeBytes ? 0 : Math.max(0, commandPlaces - facts.inFlight),
    diskFreeBytes,
  };
}

export async function diskFree(folder: string): Promise<bigint> {
  const { bavail, bsize } = await statfs(folder, { bigint: true });
  return bavail * bsize;
}
