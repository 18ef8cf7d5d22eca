/**
 * One instance as a container: made, started, watched through the engine's
 * events, paused, stopped, removed.
 *
 *   deployments.ts  all instances of a deployment     readiness.ts  whether it is there
 *   workloads.ts    what the engine is told           observe.ts    the events
 *
 * I1: at most one container carries a slot's label; it is looked for before one
 *     is made, so that an agent that died in between doubles nothing.
 * I2: what is wished (`run`, `pause`, `stop`) is in the record before it is
 *     done, so that an agent that returns goes on with it.
 * I3: a container is whole only once `made` is in the record: what was made and
 *     neither recorded nor ever started may lack files and networks, and is made
 *     again.
 * I4: the engine starts again what ended, also without an agent; whoever is
 *     asked to stop here is not started again by it.
 *
 * Long because every step of the life reads and writes the one state (I2).
 */
import { crashPoint, systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "@bowline/agent-core";
import { isJob, milliseconds, Refusal, stopGraceMs, watchHealth } from "@bowline/agent-core/runtimes";
import type { Workload } from "@bowline/contract/deployments";
import { alterations, madeOf, type Made } from "./alterations.ts";
import { refusalOf, type Inspected } from "./containers.ts";
import { EngineError, type Engine } from "./engine.ts";
import { tailOf } from "./logs.ts";
import { gone } from "./places.ts";
import type { Times } from "./times.ts";
import { startsAgain, stopSeconds, type Definition } from "./workloads.ts";

/** What is kept of an instance beside its definition. */
export interface InstanceState {
  wish: "run" | "pause" | "stop";
  /** That it belongs to: the one that made it, or a later one that didn't change it. */
  generation: number;
  /** Restarts that the engine had counted when it entered that generation. */
  restartsBefore: number;
  /** It ended by itself, for good, before it was stopped. */
  done: boolean;
  /** An agent that ended took it along; the next one starts it again. */
  suspended: boolean;
  /** Its container as it was made (I3); unset in records of older agents. */
  made?: Made | undefined;
}

export type Phase =
  | { kind: "idle" }
  | { kind: "starting" }
  | { kind: "running"; health: InstanceHealth; reason: string; settled: boolean; startedAt: number }
  | { kind: "paused" }
  | { kind: "stopping" }
  | { kind: "backing-off"; exit: Exit }
  | { kind: "exited"; exit: Exit };

export interface Exit {
  code?: number;
  reason: string;
  /** A job that was ended at its deadline. */
  overdue?: boolean;
  /** It did not start at all. */
  refused?: Refusal;
}

export interface Instance {
  readonly definition: Definition;
  readonly workload: Workload;
  readonly state: Readonly<InstanceState>;
  phase(): Phase;
  /** Its container, as far as there is one. */
  seen(): Inspected | undefined;
  restarts(): number;
  /** The last lines of its last run, as of its end or its illness. */
  output(): string;
  /** The last lines of this run as of now, and what the engine's last check said if that failed. */
  lately(): Promise<{ why: string; wrote: string }>;
  /** What somebody changed of its container by hand, for people; empty: nothing. */
  altered(): string;
  /** Whether something says that it is healthy: the spec's check, or the image's own. */
  checked(): boolean;
  /** Makes its container if there is none. Throws a refusal. */
  make(): Promise<void>;
  start(): Promise<void>;
  pause(): Promise<void>;
  stop(): Promise<void>;
  /** The same without a changed wish, and within `graceLimitMs`: the next agent starts it again. */
  suspend(graceLimitMs: number): Promise<void>;
  enter(generation: number): Promise<void>;
  /** Goes on with what was wished (I2), for an agent that found it. */
  resume(): Promise<void>;
  /** Removes its container. */
  remove(): Promise<void>;
  /** Looks at its container anew. */
  refresh(): Promise<void>;
  /** The engine says that it ended. */
  died(id: string, exitCode: number): Promise<void>;
  /** Watches no longer. */
  letGo(): void;
}

/** What an instance needs from its runtime. */
export interface InstanceSurroundings {
  engine: Engine;
  times: Times;
  /** Makes the container of a definition and returns its id. Throws a refusal. */
  create(definition: Definition, workload: Workload): Promise<string>;
  /** Id of the container that carries this slot's label. */
  find(definition: Definition): Promise<string | undefined>;
  /** Makes what its container needs beside itself. Throws a refusal. */
  beforeStart(definition: Definition): Promise<void>;
  /** Its container is gone. */
  removed(definition: Definition): Promise<void>;
  /** Gives free ports that were lost to another program other numbers. */
  renewPorts(definition: Definition): Promise<void>;
  save: () => Promise<void>;
  changed: () => void;
  /** Where the agent looks whether a port of it answers. */
  reach(instance: Instance, port: string): { host: string; port: number } | undefined;
  note(level: "info" | "warn" | "error", message: string, facts: Record<string, unknown>): void;
}

/** Free ports that the host has taken meanwhile are changed so often before a start is given up. */
const portTries = 3;

export function createInstance(
  definition: Definition,
  workload: Workload,
  state: InstanceState,
  surroundings: InstanceSurroundings,
  id: string | undefined,
): Instance {
  const { engine, times, changed, save } = surroundings;
  const facts = { deployment: definition.deploymentId, workload: workload.name, index: definition.index };
  const named = `workload ${workload.name}${definition.index === 0 ? "" : ` (instance ${definition.index})`}`;
  const probe = workload.healthCheck?.disabled === true ? undefined : workload.healthCheck?.probe.case;
  const byAgent = probe === "http" || probe === "tcp";
  let container = id;
  let seen: Inspected | undefined;
  let doing: "starting" | "stopping" | undefined;
  let refused: Refusal | undefined;
  let health: { state: InstanceHealth; reason: string } = { state: "UNKNOWN", reason: "" };
  let output = "";
  /** When the run ended of which `output` is, in the engine's words. */
  let outputOf: string | undefined;
  /** When the run before our last start ended: what was written later is of that start, or of the engine's own after it. */
  let endedBefore: string | undefined;
  /** What is done for it while it runs; of one start. */
  let attended: { startedAt: string; ends: AbortController; settled: boolean } | undefined;
  let looking: Promise<void> = Promise.resolve();

  const path = (rest: string): string => `/containers/${container ?? "none"}${rest}`;
  const saveState = async (change: Partial<InstanceState>): Promise<void> => {
    Object.assign(state, change);
    await save();
  };

  async function look(): Promise<void> {
    if (container === undefined) return;
    try {
      await show(await engine.call<Inspected>("GET", path("/json")));
    } catch (error) {
      if (!(error instanceof EngineError && error.status === 404)) throw error;
      [seen, container] = [undefined, undefined]; // somebody removed it
      await notice();
    }
  }

  /** What it wrote is read before anybody hears that it ended: a message has both. */
  async function show(next: Inspected): Promise<void> {
    const { Status, FinishedAt } = next.State;
    const ended = Status === "exited" || Status === "dead" || Status === "restarting";
    if (ended && doing !== "stopping" && state.wish === "run" && outputOf !== FinishedAt) {
      await readOutput(next); // the engine may have started it again by now
      outputOf = FinishedAt;
    }
    seen = next;
    await notice();
  }

  /** After every look: what is done for a run begins and ends with it. */
  async function notice(): Promise<void> {
    const { Status, StartedAt, Health } = seen?.State ?? {};
    const runs = Status === "running" && doing !== "stopping";
    if (!runs || attended?.startedAt !== StartedAt) {
      attended?.ends.abort();
      attended = undefined;
      health = { state: "UNKNOWN", reason: "" };
    }
    if (runs && attended === undefined && StartedAt !== undefined) attend(StartedAt);
    if (runs && checkedByEngine()) await noticeCheck(Health);
    changed();
  }

  function checkedByEngine(): boolean {
    const [kind = "NONE"] = seen?.Config.Healthcheck?.Test ?? [];
    return kind !== "NONE";
  }

  async function noticeCheck(told: Inspected["State"]["Health"]): Promise<void> {
    if (told?.Status === "unhealthy") await become("UNHEALTHY", checkSaid(told));
    else if (told?.Status === "healthy") await become("HEALTHY", "");
  }

  async function become(next: InstanceHealth, reason: string): Promise<void> {
    if (next === "UNHEALTHY" && health.state !== next) await readOutput();
    health = { state: next, reason };
    changed();
  }

  function attend(startedAt: string): void {
    const ends = new AbortController();
    const run = { startedAt, ends, settled: false };
    attended = run;
    const ranMs = Math.max(0, Date.now() - Date.parse(startedAt));
    const after = async (ms: number, act: () => Promise<void> | void): Promise<void> => {
      await systemClock.sleep(ms - ranMs, ends.signal);
      if (!ends.signal.aborted) await act();
    };
    const deadlineMs = milliseconds(workload.runToCompletion?.deadline);
    const { healthCheck } = workload;
    const parts = [
      // Kept, not computed from the clock when somebody asks: a timer may end a moment early, and nothing would tell of
      // the rest.
      after(times.settleMs, async () => {
        // An agent that stood still has not read yet that it ended: asked is the engine, which may be away.
        if (ranMs < times.settleMs) await instance.refresh().catch(() => undefined);
        if (ends.signal.aborted) return;
        run.settled = true;
        changed();
      }),
      ...(deadlineMs === undefined ? [] : [after(deadlineMs, () => end(Infinity))]),
      ...(healthCheck === undefined || !byAgent
        ? []
        : [
            watchHealth(
              healthCheck,
              { reach: (port) => surroundings.reach(instance, port), exec: () => Promise.resolve(undefined) },
              (next, reason) => void become(next, reason),
              ends.signal,
            ),
          ]),
    ];
    for (const part of parts) {
      part.catch((error: unknown) => {
        if (!ends.signal.aborted)
          surroundings.note("error", "a container is not watched", { ...facts, error: String(error) });
      });
    }
  }

  async function readOutput(of = seen): Promise<void> {
    if (of !== undefined) output = await tail(of).catch(() => output);
  }

  function tail(of: Inspected): Promise<string> {
    return tailOf(engine, of, endedBefore ?? of.State.StartedAt);
  }

  async function tellEnd(exitCode: number): Promise<void> {
    if (seen === undefined || doing === "stopping" || state.wish !== "run") return;
    const Status = startsAgain(workload, exitCode, seen.RestartCount) ? "restarting" : "exited";
    const FinishedAt = new Date().toISOString();
    await show({ ...seen, State: { ...seen.State, Status, ExitCode: exitCode, FinishedAt } });
  }

  function exitOf({ State }: Inspected): Exit {
    const deadlineMs = milliseconds(workload.runToCompletion?.deadline);
    const ranMs = Date.parse(State.FinishedAt) - Date.parse(State.StartedAt);
    if (deadlineMs !== undefined && ranMs >= deadlineMs)
      return { code: State.ExitCode || 124, reason: `stopped at its deadline of ${deadlineMs} ms`, overdue: true };
    const why = State.OOMKilled ? ", out of memory" : State.Error === "" ? "" : `: ${State.Error}`;
    return { code: State.ExitCode, reason: `ended with exit code ${State.ExitCode}${why}` };
  }

  function phase(): Phase {
    if (refused !== undefined) return { kind: "exited", exit: { reason: refused.message, refused } };
    if (doing !== undefined) return { kind: doing };
    if (seen === undefined) return { kind: "idle" };
    switch (seen.State.Status) {
      case "running": {
        const startedAt = Date.parse(seen.State.StartedAt);
        const settled = attended?.settled === true;
        return { kind: "running", health: health.state, reason: health.reason, settled, startedAt };
      }
      case "paused":
        return { kind: "paused" };
      case "restarting":
        return { kind: "backing-off", exit: exitOf(seen) };
      case "exited":
      case "dead":
        return state.wish !== "run" && !state.done ? { kind: "idle" } : { kind: "exited", exit: exitOf(seen) };
      default:
        return { kind: "idle" };
    }
  }

  async function end(graceLimitMs: number): Promise<void> {
    if (container === undefined) return;
    const { Status } = seen?.State ?? {};
    if (Status === "created" || Status === "exited" || Status === "dead") return;
    doing = "stopping";
    attended?.ends.abort();
    changed();
    crashPoint("docker.before-stop");
    const graceMs = Math.min(stopGraceMs(workload), graceLimitMs);
    try {
      if (Status === "paused") await engine.call("POST", path("/unpause")); // what is frozen hears no signal
      const t = Math.min(stopSeconds(workload), Math.ceil(graceMs / 1000));
      await gone(engine.call("POST", path("/stop"), { query: { t }, withinMs: graceMs + 60_000 }));
    } finally {
      doing = undefined;
      await instance.refresh();
    }
  }

  async function tryToStart(): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await instance.make();
        await surroundings.beforeStart(definition);
        crashPoint("docker.before-start");
        endedBefore = seen?.State.FinishedAt;
        await engine.call("POST", path("/start"));
        crashPoint("docker.after-start");
        surroundings.note("info", "container started", { ...facts, container });
        return;
      } catch (error) {
        const refusal = refusalOf(error, named);
        const dynamic = definition.ports.some((port) => port.dynamic);
        if (refusal.reason !== "PORT_TAKEN" || !dynamic || attempt >= portTries) throw refusal;
        await instance.remove();
        await surroundings.renewPorts(definition);
      }
    }
  }

  const instance: Instance = {
    definition,
    workload,
    state,
    phase,
    seen: () => seen,
    restarts: () => Math.max(0, (seen?.RestartCount ?? 0) - state.restartsBefore),
    output: () => output,
    async lately() {
      await instance.refresh();
      const { Health } = seen?.State ?? {};
      const failed = (Health?.Log?.at(-1)?.ExitCode ?? 0) !== 0;
      return { why: failed ? checkSaid(Health) : "", wrote: seen === undefined ? "" : await tail(seen) };
    },
    altered: () => (seen === undefined || state.made === undefined ? "" : alterations(state.made, seen)),
    checked: () => checkedByEngine() || byAgent,
    async make() {
      container ??= await surroundings.find(definition); // I1
      if (container !== undefined && state.made === undefined) {
        await instance.refresh();
        if (seen?.State.Status === "created") await instance.remove(); // I3
      }
      if (container === undefined) {
        if (state.made !== undefined) await saveState({ made: undefined }); // I3: it was another container's
        crashPoint("docker.before-create");
        container = await surroundings.create(definition, workload);
        crashPoint("docker.after-create");
      }
      await instance.refresh();
      if (state.made === undefined && seen !== undefined) await saveState({ made: madeOf(seen) });
    },
    async start() {
      const before = phase();
      const ended = before.kind === "exited" && before.exit.refused === undefined;
      if (ended && !state.suspended && (isJob(workload) || (before.exit.code === 0 && !startsAgain(workload, 0, 0))))
        return;
      await saveState({ wish: "run", done: false, suspended: false });
      if (before.kind === "paused") await engine.call("POST", path("/unpause"));
      if (before.kind !== "idle" && before.kind !== "exited") return await instance.refresh();
      refused = undefined;
      doing = "starting";
      changed();
      try {
        await tryToStart();
      } catch (error) {
        refused = refusalOf(error, named);
      } finally {
        doing = undefined;
        await instance.refresh();
      }
    },
    async pause() {
      const { kind } = phase();
      await saveState({ wish: "pause", done: state.done || kind === "exited" });
      if (kind === "running") await engine.call("POST", path("/pause"));
      else if (kind === "backing-off" || kind === "starting") return await end(Infinity);
      await instance.refresh();
    },
    async stop() {
      const { kind } = phase();
      const endedByItself = kind === "exited" && refused === undefined;
      await saveState({ wish: "stop", done: state.done || endedByItself });
      await end(Infinity);
      changed();
    },
    async suspend(graceLimitMs) {
      const { kind } = phase();
      if (kind === "running" || kind === "backing-off") await saveState({ suspended: true });
      await end(graceLimitMs);
    },
    async enter(generation) {
      if (state.generation === generation) return;
      await saveState({ generation, restartsBefore: seen?.RestartCount ?? 0 });
    },
    async resume() {
      container ??= await surroundings.find(definition);
      await instance.refresh();
      const { Status } = seen?.State ?? {};
      if (Status === undefined) return;
      if (state.wish === "stop") return await end(Infinity); // the last agent died while it stopped it
      if (state.wish === "pause" && Status === "running") await engine.call("POST", path("/pause"));
      if (state.wish === "run" && Status === "paused") await engine.call("POST", path("/unpause"));
      if (Status === "created") return await instance.remove(); // its files may be missing
      const ended = Status === "exited" && state.wish === "run" && !isJob(workload);
      const { State, RestartCount } = seen ?? { State: { ExitCode: 0 }, RestartCount: 0 };
      // Also what the engine could not start after a restart of the host: its files in memory were gone.
      const again = ended && startsAgain(workload, State.ExitCode, RestartCount);
      if (state.suspended || again) return await instance.start();
      await instance.refresh();
    },
    async remove() {
      attended?.ends.abort();
      if (container !== undefined) {
        await gone(engine.call("DELETE", path(""), { query: { force: true, v: true } }));
      }
      [container, seen] = [undefined, undefined];
      await surroundings.removed(definition);
    },
    refresh() {
      looking = looking.then(look, look);
      return looking;
    },
    died(id, exitCode) {
      // In line with the looks: the next start is seen after this end was told. A late word may be of the one before.
      const told = async (): Promise<void> => await (id === container ? tellEnd(exitCode) : look());
      looking = looking.then(told, told);
      return looking;
    },
    letGo() {
      attended?.ends.abort();
    },
  };
  return instance;
}

/** What the engine's last check said. */
function checkSaid(told: Inspected["State"]["Health"]): string {
  const last = told?.Log?.at(-1);
  const late = last !== undefined && last.ExitCode < 0;
  return late ? "the command did not end in time" : `exit code ${last?.ExitCode}: ${last?.Output.trim()}`;
}
