/**
 * Many simulated agents in one process: enrolled in bulk with one token, counted,
 * and made to misbehave.
 *
 *   agent.ts  one of them       misbehave.ts  what they do wrong
 *   ledger.ts what became of every command
 */
import type { Socket } from "node:net";
import type { DialTarget } from "@bowline/dial";
import { fullJitter } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import { type SimulatedAgent, startSimulatedAgent } from "./agent.ts";
import { dialAgent } from "./connection.ts";
import { type EnrolledAgent, enrolSimulated } from "./enrol.ts";
import { createLedger, type Ledger } from "./ledger.ts";
import { createMisbehaviours, type Misbehaviour, type MisbehaviourReport, plannedKinds } from "./misbehave.ts";
import type { AgentNotes, AgentPhase, AgentWorld } from "./ports.ts";
import { seededRandom } from "./random.ts";
import { createTimes, type Times } from "./times.ts";
import { createWheel } from "./wheel.ts";
import type { WorkPlan } from "./work.ts";

export interface FleetSettings {
  target: Omit<DialTarget, "localAddress">;
  /** Text of a registration token with as many uses as there are agents. */
  token: string;
  agents: number;
  seed: number;
  /** Shortest and longest time that a command takes. */
  runMs: readonly [number, number];
  /** Share of attempts that fail, 0 to 1. */
  failRate: number;
  /** Default: what the server says. */
  heartbeatMs?: number;
  /** This machine's addresses to dial from, by turns. Default: the system's choice. */
  sourceAddresses?: readonly string[];
  /** Default: `local`. */
  runtime?: string;
  /** Their names begin with it. */
  prefix: string;
  labelsOf?: (index: number) => Record<string, string>;
  /** How many agents misbehave, and how. */
  misbehave?: Partial<Record<Misbehaviour, number>>;
  clockSkewMs?: number;
}

export interface Fleet {
  /** Resolves when all have enrolled. Rejects where the server refuses one for good. */
  enrolled: Promise<void>;
  /** How many have. */
  enrolments(): number;
  /** How long an enrolment took, from its dial. */
  enrolmentTimes: Times;
  phases: Readonly<Record<AgentPhase, number>>;
  ledger: Ledger;
  /** Commands that were pushed, repeated ones too. */
  pushes(): number;
  /** Times from heartbeats to their answers. */
  beats: Times;
  /** Reasons of refused dials, lost sessions and failed fetches. */
  troubles: ReadonlyMap<string, number>;
  /** The cluster that they enrolled in; empty before the first has. */
  clusterId(): string;
  /** Begins what was to go wrong. */
  misbehave(kind: Misbehaviour): void;
  misbehaviours(): MisbehaviourReport[];
  /** Goodbyes, and nothing is left. */
  stop: () => Promise<void>;
}

/** Enrolments at once: a server takes those of one cluster sixteen at a time, and the next gather meanwhile. */
const enrolAtOnce = 32;
/** A server that is busy, or not there for a moment. */
const enrolAgain = { floorMs: 200, baseMs: 500, capMs: 10_000 };
const enrolTries = 12;
/** Reasons for which another try is answered the same. */
const forGood =
  /^(REGISTRATION_TOKEN_.*|CLUSTER_.*|ENROLMENT_PROOF_INVALID|CLOCK_SKEW|INVALID_ARGUMENT|CLIENT_CERTIFICATE_.*|TLS_.*|HTTP2_UNAVAILABLE)$/;
/** Agents that stop in the same moment: all would let a server's goodbyes pile up. */
const stopAtOnce = 500;

interface Member {
  enrolled: EnrolledAgent;
  agent: SimulatedAgent;
}

export function startFleet(settings: FleetSettings): Fleet {
  const wheel = createWheel();
  const random = seededRandom(settings.seed);
  const world: AgentWorld = { wheel, random, halfOpen: new Set<Socket>() };
  const ledger = createLedger();
  const beats = createTimes();
  const enrolmentTimes = createTimes();
  const troubles = new Map<string, number>();
  const phases: Record<AgentPhase, number> = {
    ...{ waiting: 0, dialling: 0, greeting: 0, syncing: 0, serving: 0, stopped: 0 },
  };
  const members: Member[] = [];
  const kinds = plannedKinds(settings.misbehave ?? {});
  const stopping = new AbortController();
  let pushes = 0;

  const [shortestMs, longestMs] = settings.runMs;
  const plan: WorkPlan = () => {
    const runMs = shortestMs + random() * (longestMs - shortestMs);
    return random() < settings.failRate
      ? { runMs, failure: { reason: "SIMULATED_FAILURE", worthRetry: true } }
      : { runMs };
  };
  const targetOf = (index: number): DialTarget => {
    const addresses = settings.sourceAddresses ?? [];
    return { ...settings.target, localAddress: addresses[index % Math.max(1, addresses.length)] };
  };
  const misbehaviours = createMisbehaviours({ world, clockSkewMs: settings.clockSkewMs });

  function notesOf(index: number): AgentNotes {
    const kind = kinds[index];
    let last: AgentPhase | undefined;
    return {
      phase(phase) {
        if (last !== undefined) phases[last] -= 1;
        phases[phase] += 1;
        last = phase;
        if (kind !== undefined && phase === "serving") misbehaviours.serves(kind, index);
      },
      pushed: () => void (pushes += 1),
      effect: ledger.effect,
      carried: ledger.carried,
      answered: ledger.answered,
      beat: beats.add,
      trouble(reason) {
        troubles.set(reason, (troubles.get(reason) ?? 0) + 1);
        if (kind !== undefined) misbehaviours.trouble(kind, reason);
      },
    };
  }

  async function enrolOne(index: number): Promise<void> {
    const { prefix, token, runtime = "local", labelsOf = () => ({}), heartbeatMs } = settings;
    const target = targetOf(index);
    const gated = kinds[index] === "half-open";
    for (let attempt = 0; !stopping.signal.aborted; attempt += 1) {
      const startedAt = performance.now();
      try {
        const { signal } = stopping;
        const connection = await dialAgent(target, gated ? { signal, kept: world.halfOpen } : { signal });
        const enrolled = await enrolSimulated(connection, {
          ...{ audience: new URL(target.url).origin, token, runtime },
          ...{ name: `${prefix}${index}`, labels: labelsOf(index) },
        }).catch((error: unknown) => {
          connection.cut();
          throw error;
        });
        enrolmentTimes.add(performance.now() - startedAt);
        const facts = { runtime, runtimeIdentity: enrolled.runtimeIdentity, labels: labelsOf(index) };
        const options = {
          ...{ world, plan, facts, sign: enrolled.sign, target: () => target, gated },
          ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
        };
        const stubborn = kinds[index] === "duplicate";
        const agent = startSimulatedAgent({ ...options, notes: notesOf(index), connection, stubborn });
        members.push({ enrolled, agent });
        const kind = kinds[index];
        if (kind !== undefined) {
          const twin = () => startSimulatedAgent({ ...options, notes: notesOf(index), stubborn });
          misbehaviours.add(kind, { index, agent, twin });
        }
        return;
      } catch (error) {
        if (stopping.signal.aborted) return;
        const { reason, retryAfterMs = 0 } = refusalOf(error);
        const key = `enrol: ${reason}`;
        troubles.set(key, (troubles.get(key) ?? 0) + 1);
        if (attempt + 1 >= enrolTries || forGood.test(reason)) throw error;
        await wheel.sleep(Math.max(retryAfterMs, fullJitter(enrolAgain, attempt, random)));
      }
    }
  }

  let next = 0;
  const enrolAll = async (): Promise<void> => {
    while (next < settings.agents && !stopping.signal.aborted) {
      const index = next;
      next += 1;
      await enrolOne(index);
    }
  };
  const lines = Array.from({ length: Math.min(enrolAtOnce, settings.agents) }, enrolAll);
  const enrolled = Promise.all(lines).then(
    () => undefined,
    (error: unknown) => {
      stopping.abort(); // the others' turn ends too
      throw error;
    },
  );
  enrolled.catch(() => undefined); // also where nobody waits for it yet

  return {
    enrolled,
    enrolments: () => members.length,
    enrolmentTimes,
    phases,
    ledger,
    pushes: () => pushes,
    beats,
    troubles,
    clusterId: () => members[0]?.enrolled.clusterId ?? "",
    misbehave: misbehaviours.begin,
    misbehaviours: misbehaviours.report,
    async stop() {
      stopping.abort();
      await Promise.allSettled(lines);
      await misbehaviours.stop();
      for (let at = 0; at < members.length; at += stopAtOnce) {
        await Promise.all(members.slice(at, at + stopAtOnce).map(({ agent }) => agent.stop("leave")));
      }
      for (const socket of world.halfOpen) socket.destroy();
      wheel.stop();
    },
  };
}
