/**
 * A machine with a runtime: what runs there outlives the agent. It adopts by
 * deployment and generation (R1), and removes only what an ABSENT spec names (R2).
 */
import { type Deployment, Deployment_Desired } from "@bowline/contract/deployments";
import type { ConvergeEnd, Runtime } from "@bowline/agent-core";
import type { Random } from "./random.ts";
import type { Process } from "./world.ts";

/** What happened at a host, for the checker. */
export interface Effect {
  host: string;
  kind: "begun" | "made" | "adopted" | "removed" | "over";
  deploymentId: string;
  generation: number;
  /** What its spec says that tells it from another history's. */
  content: string;
}

const usual = { failing: 0.1, stuck: 0.01, slow: 0.05 };

export class Host {
  readonly name: string;
  /** What the runtime says that makes it the same one tomorrow. */
  identity: string;
  /** What runs, by deployment. */
  readonly running = new Map<string, { generation: number; content: string }>();
  /** How many converges of a deployment are under way, of any process. */
  readonly under = new Map<string, number>();
  /** Share of converges that fail, and of those that never end. */
  failing = usual.failing;
  stuck = usual.stuck;
  slow = usual.slow;
  /** Told of each effect. */
  readonly told: (effect: Effect) => void;
  /** Called right before and right after an effect; a crash in there is what a fault may want. */
  around: ((when: "before" | "after") => void) | undefined;
  /** A defect for the mutation checks: it makes again what it has. */
  adopts = true;
  readonly #random: Random;

  constructor(name: string, random: Random, told: (effect: Effect) => void) {
    this.name = name;
    this.identity = name;
    this.#random = random;
    this.told = told;
  }

  mend(): void {
    Object.assign(this, usual);
  }

  /** As one agent process drives it. */
  runtime(process: Process): Runtime {
    const never = (): never => {
      throw new Error("not simulated");
    };
    return {
      describe: () =>
        Promise.resolve({
          ...({
            kind: "local",
            version: "1",
            identity: this.name,
            capabilities: [],
            instanceLimit: 0,
            problem: "",
          } as const),
        }),
      converge: (spec, _report, signal) => this.#converge(process, spec, signal),
      list: () => Promise.resolve([]),
      watch: () => Promise.resolve(),
      upstream: never,
      volumePath: never,
      logs: never,
      exec: never,
      close: () => Promise.resolve(),
    };
  }

  async #converge(process: Process, spec: Deployment, signal: AbortSignal): Promise<ConvergeEnd> {
    // W2: what was under way in the moment of its death may still come here.
    if (!process.alive) return await new Promise(() => undefined);
    const { id } = spec;
    const effect = {
      host: this.name,
      deploymentId: id,
      generation: spec.generation,
      content: spec.workloads[0]?.image ?? "",
    };
    this.under.set(id, (this.under.get(id) ?? 0) + 1);
    const over = (): void => {
      this.under.set(id, (this.under.get(id) ?? 1) - 1);
      this.told({ ...effect, kind: "over" });
    };
    const forget = process.atDeath(over);
    this.told({ ...effect, kind: "begun" });
    try {
      const random = this.#random;
      const long = random.chance(this.slow);
      await this.#work(process, long ? random.between(10_000, 60_000) : random.between(20, 3_000), signal);
      if (random.chance(this.stuck)) await process.wait(600_000); // nor does it hear the signal
      if (signal.aborted) return { kind: "cancelled" };
      if (random.chance(this.failing / 2)) return failure(random);
      this.around?.("before");
      if (!process.alive) return await new Promise(() => undefined);
      this.#effect(spec, effect);
      this.around?.("after");
      if (!process.alive) return await new Promise(() => undefined);
      await this.#work(process, random.between(5, 500), signal);
      if (random.chance(this.failing / 2)) return failure(random);
      return signal.aborted ? { kind: "cancelled" } : { kind: "succeeded" };
    } finally {
      forget();
      over();
    }
  }

  #effect(spec: Deployment, effect: Omit<Effect, "kind">): void {
    const { generation, content } = effect;
    const known = this.running.get(spec.id);
    if (spec.desired === Deployment_Desired.ABSENT) {
      this.running.delete(spec.id);
      this.told({ ...effect, kind: "removed" });
    } else if (this.adopts && known?.generation === generation) this.told({ ...effect, kind: "adopted" });
    else {
      this.running.set(spec.id, { generation, content });
      this.told({ ...effect, kind: "made" });
    }
  }

  /** Ends early where the signal aborts. */
  async #work(process: Process, ms: number, signal: AbortSignal): Promise<void> {
    await process.clock.sleep(ms, signal);
  }
}

function failure(random: Random): ConvergeEnd {
  return { kind: "failed", reason: "START_FAILED", message: "as drawn", worthRetry: random.chance(0.8) };
}
