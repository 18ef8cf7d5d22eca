/**
 * A runtime and a gateway class whose effects are lines of a ledger: for an
 * agent whose core is the real one, journal and crash points included.
 *
 * R1 (runtime.ts of the core): what stands at this generation with this content
 * is adopted, and is no second effect.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import type { ConvergeEnd, DataPlaneClass, ObservedDeployment, Runtime } from "@bowline/agent-core";
import { Deployment_Desired, WorkloadSchema } from "@bowline/contract/deployments";
import { contentOf } from "./content.ts";
import { openLedger, type Ledger, type LedgerLine } from "./ledger.ts";
import { readWays } from "./ways.ts";

/** Between two looks of a converge that is held. */
const heldLookMs = 20;

type What = Pick<LedgerLine, "deployment" | "generation" | "content" | "part">;

/** The one place where the effects of a host happen. */
export interface Effects {
  make(what: What, signal: AbortSignal): Promise<ConvergeEnd>;
  remove(what: What, signal: AbortSignal): Promise<ConvergeEnd>;
  ledger: Ledger;
}

export function createEffects(host: string): Effects {
  const ledger = openLedger(host);

  async function within(what: What, signal: AbortSignal, effect: () => void): Promise<ConvergeEnd> {
    ledger.write({ ...what, what: "begun" });
    const { workMs, killedBy, failsWith } = readWays(host);
    if (killedBy !== "" && killedBy === what.deployment) process.kill(process.pid, "SIGKILL");
    try {
      while (readWays(host).held) await sleep(heldLookMs, undefined, { signal });
      if (workMs > 0) await sleep(workMs, undefined, { signal });
      if (signal.aborted) return { kind: "cancelled" };
      if (failsWith !== "") return { kind: "failed", reason: "START_FAILED", message: failsWith, worthRetry: true };
      effect();
      return { kind: "succeeded" };
    } catch (error) {
      if (signal.aborted) return { kind: "cancelled" };
      throw error;
    } finally {
      ledger.write({ ...what, what: "ended" });
    }
  }

  return {
    ledger,
    make: (what, signal) =>
      within(what, signal, () => {
        const there = ledger.standing.get(what.deployment);
        const same = there?.generation === what.generation && there.content === what.content;
        ledger.write({ ...what, what: same ? "adopted" : "applied" });
      }),
    remove: (what, signal) =>
      within(what, signal, () => {
        if (ledger.standing.has(what.deployment)) ledger.write({ ...what, what: "removed" });
      }),
  };
}

export function createLedgerRuntime(host: string, effects: Effects): Runtime {
  const observers = new Set<(observed: ObservedDeployment) => void>();
  const observe = (deploymentId: string): ObservedDeployment => {
    const there = effects.ledger.standing.get(deploymentId);
    if (there === undefined) return { deploymentId, generation: 0, instances: [], absent: true };
    const instance = { workload: "proxy", index: 0, phase: "RUNNING", health: "HEALTHY", restarts: 0 } as const;
    const more = { image: "", ports: [], reason: "" };
    return { deploymentId, generation: there.generation, instances: [{ ...instance, ...more }], absent: false };
  };
  return {
    async describe() {
      const identity = readFileSync(join(host, "identity"), "utf8").trim();
      return { kind: "local", version: "0", identity, capabilities: [], instanceLimit: 0, problem: "" };
    },
    async converge(spec, _report, signal) {
      const content = contentOf(spec);
      const what: What = { deployment: spec.id, generation: spec.generation, content, part: "workload" };
      const end =
        spec.desired === Deployment_Desired.ABSENT
          ? await effects.remove(what, signal)
          : await effects.make(what, signal);
      for (const tell of observers) tell(observe(spec.id));
      return end;
    },
    async list() {
      return [...effects.ledger.standing].filter(([, { part }]) => part === "workload").map(([id]) => observe(id));
    },
    async watch(changed, signal) {
      observers.add(changed);
      await new Promise<void>((resolve) => {
        if (signal.aborted) resolve();
        else signal.addEventListener("abort", () => resolve(), { once: true });
      });
      observers.delete(changed);
    },
    upstream: () => Promise.resolve(undefined),
    volumePath: () => Promise.resolve(undefined),
    async *logs() {},
    async *exec() {},
    close: () => Promise.resolve(),
  };
}

/** Stands in for the data plane of this name: what serves is what the ledger says. */
export function createLedgerDataPlane(effects: Effects): DataPlaneClass {
  return {
    name: "embedded",
    compile: (spec) => ({ ...spec, workloads: [create(WorkloadSchema, { name: "proxy", command: ["ledger"] })] }),
    start: () => Promise.resolve({ kind: "succeeded" }),
    apply: (_dataPlaneId, next, _previous, _runtime, _report, signal) =>
      effects.make(
        {
          deployment: next.deploymentId,
          generation: next.generation,
          content: contentOf({ routes: next.routes }),
          part: "routes",
        },
        signal,
      ),
    remove: (_dataPlaneId, deployment, generation, _runtime, signal) =>
      effects.remove({ deployment, generation, content: "", part: "routes" }, signal),
  };
}
