/**
 * An agent's life: what starts in which order, and stops in reverse.
 *
 *   journal → health → observer → converger with what was under way → data planes → session
 *
 * L1: what runs here works without a server: workloads, data planes and
 *     commands that were taken go on before the first dial and while it fails.
 * L2: at the end the session says Goodbye first, then what is under way is left
 *     to the next start (V4), and only then the journal closes.
 *
 * That one process has the data folder is the runtime's to see to: it is made
 * before, and refuses a folder in use.
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { signAssertion } from "@bowline/auth";
import { crashPoint, startStages, systemClock, type Clock, type Stage } from "@bowline/kernel";
import { noTraces, type Traces } from "@bowline/traces";
import type { AgentConfig } from "./config.ts";
import { connect } from "./connect.ts";
import { createConverger } from "./converge.ts";
import type { DataPlaneClass } from "./dataplane.ts";
import { createDialler } from "./dial.ts";
import { enrol } from "./enrol.ts";
import { createGateways } from "./gateways.ts";
import { createHealth } from "./health.ts";
import type { Enrolled, Identity } from "./identity.ts";
import { openJournal, type Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import { createObserver } from "./observe.ts";
import { createRotation } from "./rotation.ts";
import type { Runtime } from "./runtime.ts";
import { serve } from "./serve.ts";
import { chooseTransport } from "./transports.ts";
import { createTunnels, type Tunnels } from "./tunnels.ts";

/** How an agent's life ended. `exitCode`: 0 it was stopped, 4 the server refuses it for good. */
export type AgentEnd = { exitCode: 0 } | { exitCode: 4; reason: string; message: string };

export interface AgentParts {
  runtime: Runtime;
  dataPlanes: readonly DataPlaneClass[];
  config: AgentConfig;
  identity: Identity;
  /** Opens what was sealed to this agent. Rejects what was not. */
  openSecret: (sealed: string) => Promise<Uint8Array>;
  log: Log;
  /** Unset: nothing is traced. */
  traces?: Traces;
  clock?: Clock;
}

/** A converge ends within a workload's stop grace (10 s by default) when it is aborted. */
const convergerStopMs = 15_000;
const quickStopMs = 3_000;
/** A data plane comes up beside the agent, so the first tries may be too early; then an operator has to look. */
const adoptTries = 30;
const adoptAgainMs = 2_000;

/** What runs beside the rest. */
function whileRunning(name: string, body: (signal: AbortSignal) => Promise<void>): Stage {
  return {
    name,
    stopWithinMs: quickStopMs,
    start: async () => {
      const ending = new AbortController();
      const running = body(ending.signal);
      return async () => {
        ending.abort();
        await running;
      };
    },
  };
}

/** Runs until `signal` aborts or the server refuses this agent for good. Does not close the runtime. Throws where its own disk fails. */
export async function run(parts: AgentParts, signal: AbortSignal): Promise<AgentEnd> {
  const { runtime, dataPlanes, config, identity, log, traces = noTraces, clock = systemClock } = parts;
  const over = new AbortController();
  const stopped = AbortSignal.any([signal, over.signal]);
  const dialler = createDialler(config, log);
  let journal: Journal | undefined;
  let inOrder: (() => Promise<unknown>) | undefined;
  let tunnels: Tunnels | undefined;
  try {
    const enrolled = await whoAmI();
    if ("exitCode" in enrolled) return enrolled;
    journal = await openJournal(config.dataDir, log, () => clock.now());
    const observer = await createObserver({ runtime, journal, log, clock });
    const gateways = createGateways({ runtime, dataPlanes, journal, log, clock, openSecret: parts.openSecret });
    const converger = createConverger({ runtime, gateways, journal, log, clock, traces });
    const health = createHealth({ dataDir: config.dataDir, runtime, clock });
    const stages: Stage[] = [
      whileRunning("health", (until) => health.run(until)),
      whileRunning("observer", (until) => observer.run(until)),
      {
        name: "converger",
        stopWithinMs: convergerStopMs,
        start: async () => {
          adoptDataPlanes(journal as Journal, gateways, converger);
          for (const command of (journal as Journal).inFlight()) converger.run(command); // L1
          return () => converger.stop();
        },
      },
    ];
    inOrder = await startStages(stages, { signal, clock });
    crashPoint("supervise.started");
    const processId = randomUUID();
    const gatewayClasses = dataPlanes.map(({ name }) => `gateway-class/${name}`);
    const { dataDir, keyMaxAgeMs } = config;
    const rotation = createRotation({ keys: identity.keys, enrolled, dataDir, keyMaxAgeMs, clock, log });
    tunnels = createTunnels({ runtime, dial: (kind, ended) => dialler.dialTunnel(kind, ended), clock, log });
    const choice = chooseTransport(config.transport, journal.number("polls") === 1);
    const end = await connect(
      {
        sign: async (floor) =>
          signAssertion(rotation.signing(), {
            agentId: enrolled.agentId,
            audience: enrolled.installationId,
            counter: await identity.nextCounter(floor),
            now: clock.now(),
          }),
        choice,
        dial: (kind) => dialler.dial(kind),
        serve: async (transport, assertion, ending) => {
          const served = await serve(
            {
              config,
              lookLater: () => choice.lookLater(),
              serving: (session, over) => {
                health.serving(over);
                void rotation.run(session, over);
              },
              processId,
              runtime,
              gatewayClasses,
              ...(tunnels === undefined ? {} : { tunnels }),
              journal: journal as Journal,
              converger,
              observer,
              clock,
              log,
              traces,
            },
            transport,
            assertion,
            ending,
          );
          return rotation.after(served);
        },
        clock,
        log,
      },
      signal,
    );
    return end.kind === "stopped" ? { exitCode: 0 } : { exitCode: 4, reason: end.reason, message: end.message };
  } finally {
    over.abort();
    await tunnels?.close();
    await inOrder?.();
    await journal?.close();
  }

  async function whoAmI(): Promise<Enrolled | AgentEnd> {
    const known = await identity.enrolled();
    if (known !== undefined) return known;
    const { server, name, labels, registrationToken: token } = config;
    if (token === undefined) {
      const message =
        "not enrolled yet: give a registration token (--token-file, --token-stdin or BOWLINE_REGISTRATION_TOKEN)";
      return { exitCode: 4, reason: "REGISTRATION_TOKEN_MISSING", message };
    }
    const { kind: runtimeKind, identity: runtimeIdentity } = await runtime.describe();
    const facts = {
      server,
      token,
      name,
      hostname: hostname(),
      labels: { ...labels },
      runtime: runtimeKind,
      runtimeIdentity,
    };
    // A path without HTTP/2 carries these calls too.
    const kinds = config.transport === "auto" ? (["stream", "poll"] as const) : ([config.transport] as const);
    const transports = kinds.map((kind) => dialler.dial(kind));
    const calls = transports.map(({ unary }) => unary);
    const end = await enrol(calls, identity, facts, { clock, log }, signal).finally(() => {
      for (const transport of transports) transport.close();
    });
    switch (end.kind) {
      case "enrolled":
        log.info({ agent: end.enrolled.name, cluster: end.enrolled.cluster }, "enrolled");
        return end.enrolled;
      case "refused":
        return { exitCode: 4, reason: end.reason, message: end.message };
      case "stopped":
        return { exitCode: 0 };
      default:
        return end satisfies never;
    }
  }

  /** In the deployments' turns, so that a command for one of them comes after; it does not wait for more than a try. */
  function adoptDataPlanes(
    journal: Journal,
    gateways: ReturnType<typeof createGateways>,
    converger: ReturnType<typeof createConverger>,
  ): void {
    for (const good of journal.good()) {
      converger.inTurn(good.deploymentId, async () => {
        for (let tries = 1; tries <= adoptTries && !stopped.aborted; tries += 1) {
          const end = await gateways.adopt(good, stopped).catch((error: unknown) => {
            const message = error instanceof Error ? error.message : String(error);
            return { kind: "failed", reason: "INTERNAL", message } as const;
          });
          if (end.kind !== "failed") return;
          const { reason, message } = end;
          log.warn(
            { deployment: good.deploymentId, reason, detail: message, tries },
            "a data plane could not be adopted",
          );
          if (converger.isAwaited(good.deploymentId)) return; // a command brings it up, or takes it away
          await clock.sleep(adoptAgainMs, stopped);
        }
      });
    }
  }
}
