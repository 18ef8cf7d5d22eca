/**
 * What is seen of containers: the engine's events, and what watchers are told.
 */
import { systemClock } from "@bowline/kernel";
import type { InstancePhase, ObservedDeployment, ObservedInstance } from "@bowline/agent-core";
import type { Listed } from "./containers.ts";
import { EngineError, linesOf, type Engine } from "./engine.ts";
import type { Instance, Phase } from "./instances.ts";
import { filterOf, labels } from "./labels.ts";
import type { Times } from "./times.ts";

/** Something happened to a container of ours, or to a network and some container. */
export interface EngineEvent {
  action: string;
  /** Empty for a network's. */
  deploymentId: string;
  slot: string;
  container: string;
  exitCode: number;
}

/** What is listened for. Of a network's events no label says whose container it is: whoever listens knows its own. */
const listened = {
  type: ["container", "network"],
  event: [
    ...["start", "die", "pause", "unpause", "stop", "destroy", "oom", "update", "health_status"],
    ...["connect", "disconnect"],
  ],
};

/** As the engine writes it, one line each. */
interface RawEvent {
  Type: string;
  Action: string;
  Actor: { ID: string; Attributes: Record<string, string> };
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
    const silent = new AbortController();
    const ends = AbortSignal.any([signal, silent.signal]);
    try {
      await engine.renew();
      const query = { filters: JSON.stringify(listened) };
      const stream = await engine.stream("GET", "/events", { query, signal: ends });
      await on.connected();
      waitMs = times.reconnectFirstMs;
      void ping(engine, times, silent, ends);
      for await (const line of linesOf(stream)) {
        const { Type, Action, Actor } = JSON.parse(line) as RawEvent;
        if (Type === "container" && Actor.Attributes[labels.agent] !== agent) continue; // a stranger's
        on.event({
          container: Type === "container" ? Actor.ID : (Actor.Attributes["container"] ?? ""),
          action: Action.split(":")[0] ?? "",
          deploymentId: Actor.Attributes[labels.deployment] ?? "",
          slot: Actor.Attributes[labels.slot] ?? "",
          exitCode: Number(Actor.Attributes["exitCode"] ?? 0),
        });
      }
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      why = error instanceof EngineError ? text : `${why}: ${text}`;
    }
    if (silent.signal.aborted) why = String(silent.signal.reason);
    silent.abort();
    if (signal.aborted) return;
    on.away(why);
    await systemClock.sleep(waitMs, signal);
    waitMs = Math.min(waitMs * 2, times.reconnectMaxMs);
  }
}

/** A line that is dead says nothing, and neither does an engine that hangs: asked now and then, its silence counts. */
async function ping(engine: Engine, times: Times, silent: AbortController, ends: AbortSignal): Promise<void> {
  while (!ends.aborted) {
    await systemClock.sleep(times.pingEveryMs, ends);
    if (ends.aborted) return;
    try {
      await engine.call("GET", "/_ping", { withinMs: times.pingWithinMs, signal: ends });
    } catch (error) {
      silent.abort(error instanceof Error ? error.message : String(error));
    }
  }
}

/** What an event says about a container that we hold. */
export async function noticed(instance: Instance, { action, container, exitCode }: EngineEvent): Promise<void> {
  if (action === "die") await instance.died(container, exitCode);
  else await instance.refresh();
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
  const altered = instance.altered();
  const changes = altered === "" ? "" : `changed by hand: ${altered}`;
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
    reason: phase.kind === "running" ? [changes, phase.reason].filter(Boolean).join("; ") : (exit?.reason ?? ""),
    ...(phase.kind === "running" && altered !== "" ? { altered: true } : {}),
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
