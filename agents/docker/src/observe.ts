/**
 * What is seen of containers: the engine's events, and what watchers are told.
 */
import { systemClock } from "@bowline/kernel";
import type { InstancePhase, ObservedDeployment, ObservedInstance } from "@bowline/agent-core";
import type { Listed } from "./containers.ts";
import { linesOf, type Engine } from "./engine.ts";
import type { Instance, Phase } from "./instances.ts";
import { filterOf, labels } from "./labels.ts";
import type { Times } from "./times.ts";

/** Something happened to a container of ours. */
export interface EngineEvent {
  action: string;
  deploymentId: string;
  slot: string;
  exitCode: number;
}

/** As the engine writes it, one line each. */
interface RawEvent {
  Action: string;
  Actor: { Attributes: Record<string, string> };
}

/**
 * Follows the engine's events until `signal` aborts, over every time that it is
 * away. `connected` is called before the first event of each connection: what
 * happened before has to be looked up. `away` is told when, and why.
 */
export async function followEvents(
  engine: Engine,
  agent: string,
  on: { connected(): Promise<void>; event(event: EngineEvent): void; away(why: string): void },
  times: Times,
  signal: AbortSignal,
): Promise<void> {
  let waitMs = times.reconnectFirstMs;
  while (!signal.aborted) {
    let why = "the Docker Engine ended the connection";
    try {
      const filters = JSON.stringify({ type: ["container"], label: [`${labels.agent}=${agent}`] });
      const stream = await engine.stream("GET", "/events", { query: { filters }, signal });
      await on.connected();
      waitMs = times.reconnectFirstMs;
      for await (const line of linesOf(stream)) {
        const { Action, Actor } = JSON.parse(line) as RawEvent;
        on.event({
          action: Action.split(":")[0] ?? "",
          deploymentId: Actor.Attributes[labels.deployment] ?? "",
          slot: Actor.Attributes[labels.slot] ?? "",
          exitCode: Number(Actor.Attributes["exitCode"] ?? 0),
        });
      }
    } catch (error) {
      why = error instanceof Error ? error.message : String(error);
    }
    if (signal.aborted) return;
    on.away(why);
    await systemClock.sleep(waitMs, signal);
    waitMs = Math.min(waitMs * 2, times.reconnectMaxMs);
  }
}

/** What an event says about a container that we hold. */
export async function noticed(instance: Instance, { action, exitCode }: EngineEvent): Promise<void> {
  const looked = ["start", "pause", "unpause", "stop", "destroy", "oom", "health_status"];
  if (action === "die") await instance.died(exitCode);
  else if (looked.includes(action)) await instance.refresh();
}

/** Containers with this agent's label whose slot nobody holds: their record is lost, or was never finished. */
export async function listStrays(
  engine: Engine,
  agent: string,
  holds: (deploymentId: string, slot: string) => boolean,
  deploymentId?: string,
): Promise<Listed[]> {
  const wanted = {
    [labels.agent]: agent,
    ...(deploymentId === undefined ? {} : { [labels.deployment]: deploymentId }),
  };
  const all = await engine.call<Listed[]>("GET", "/containers/json", {
    query: { all: true, filters: filterOf(wanted) },
  });
  return all.filter(({ Labels }) => !holds(Labels[labels.deployment] ?? "", Labels[labels.slot] ?? ""));
}

/** Strays as deployments: shown, and left alone until an ABSENT spec or a newer wish names them. */
export function observeStrays(strays: readonly Listed[]): ObservedDeployment[] {
  const found = new Map<string, ObservedDeployment & { instances: ObservedInstance[] }>();
  for (const { Labels, Image, Names, State } of strays) {
    const deploymentId = Labels[labels.deployment] ?? "";
    const generation = Number(Labels[labels.generation] ?? 0);
    const stray = found.get(deploymentId) ?? { deploymentId, generation, instances: [], absent: false };
    stray.instances.push({
      workload: Labels[labels.workload] ?? "",
      index: Number(Labels[labels.index] ?? 0),
      phase: State === "running" ? "RUNNING" : State === "paused" ? "PAUSED" : "EXITED",
      health: "UNKNOWN",
      restarts: 0,
      image: Image,
      ports: [],
      reason: `stray: container ${Names[0] ?? ""} carries this agent's label, but no record of it is left`,
    });
    found.set(deploymentId, stray);
  }
  return [...found.values()];
}

export function observeInstance(instance: Instance): ObservedInstance {
  const { definition, workload } = instance;
  const phase = instance.phase();
  const exit = "exit" in phase ? phase.exit : undefined;
  return {
    workload: workload.name,
    index: definition.index,
    phase: phaseNames[phase.kind],
    health: phase.kind === "running" ? phase.health : "UNKNOWN",
    restarts: instance.restarts(),
    ...(exit?.code === undefined ? {} : { exitCode: exit.code }),
    image: workload.image,
    ports: definition.ports
      .filter(({ published }) => published !== 0)
      .map(({ name, container, address, published }) => ({ name, container, address, published })),
    reason: phase.kind === "running" ? phase.reason : (exit?.reason ?? ""),
    ...(phase.kind === "running" ? { startedAt: new Date(phase.startedAt) } : {}),
  };
}

const phaseNames = {
  idle: "STOPPED",
  starting: "STARTING",
  running: "RUNNING",
  paused: "PAUSED",
  stopping: "STOPPING",
  "backing-off": "BACKING_OFF",
  exited: "EXITED",
} as const satisfies Record<Phase["kind"], InstancePhase>;
