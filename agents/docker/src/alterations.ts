/** What somebody changed by hand of a container that this runtime made: limits, restart policy, networks. */
import type { Inspected } from "./containers.ts";

/** What can be changed of a container after it was made (`docker update`, `docker network connect`), in words, each as text. */
export type Made = Record<string, string>;

/** Fields of the engine's host configuration, and how people call them. */
const updatable = {
  Memory: "memory",
  MemoryReservation: "memory reservation",
  MemorySwap: "swap",
  NanoCpus: "CPUs",
  CpuShares: "CPU shares",
  CpuQuota: "CPU quota",
  CpuPeriod: "CPU period",
  CpusetCpus: "CPU set",
  PidsLimit: "limit of processes",
  RestartPolicy: "restart policy",
} as const;

export function madeOf({ HostConfig, NetworkSettings }: Inspected): Made {
  const fields = Object.entries(updatable).map(([field, name]) => [name, wordsOf(HostConfig[field])] as const);
  const networks = Object.keys(NetworkSettings.Networks).toSorted().join(", ");
  return { ...Object.fromEntries(fields), networks };
}

/** What differs, for people; empty: nothing. */
export function alterations(made: Made, seen: Inspected): string {
  const now = madeOf(seen);
  return Object.entries(made)
    .filter(([name, value]) => now[name] !== value)
    .map(([name, value]) => `${name} ${now[name] || "none"} instead of ${value || "none"}`)
    .join("; ");
}

function wordsOf(value: unknown): string {
  if (typeof value === "object" && value !== null) return Object.values(value).filter(Boolean).join(" ");
  return typeof value === "string" || (typeof value === "number" && value > 0) ? String(value) : "";
}
