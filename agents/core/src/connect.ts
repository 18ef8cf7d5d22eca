/**
 * An agent's connection to its control plane: dial, serve, wait, again.
 *
 *   supervise.ts  starts it, after everything that works without a server
 *   serve.ts      one session, from greeting to end
 *   transports.ts stream or poll
 *   identity.ts   the counter of each dial's assertion
 *
 * N1: at most one session is open at any time.
 * N2: every path back to `dialling` passes through `waiting`, and no wait is
 *     shorter than the floor.
 */
import { fullJitter, type Clock } from "@bowline/kernel";
import type { AgentTransport } from "@bowline/session";
import type { Log } from "./log.ts";
import type { SessionEnd } from "./serve.ts";
import type { TransportChoice, TransportKind } from "./transports.ts";

export type ConnectEnd = { kind: "stopped" } | { kind: "refused"; reason: string; message: string };

type Phase =
  | { kind: "dialling"; attempt: number }
  | { kind: "serving"; transport: AgentTransport; assertion: string; attempt: number; since: number }
  | { kind: "waiting"; attempt: number; forMs: number }
  | { kind: "ended"; because: ConnectEnd };

/** Waits between sessions. The floor holds on every path: a server that ends sessions at once is not hammered. */
const backoff = { floorMs: 250, baseMs: 1_000, capMs: 60_000 };
/** A session that lived this long counts as a success, and the backoff starts anew. */
const stableAfterMs = 60_000;
/** Another process has this identity. Two that return at once would throw each other out without end. */
const supersededWait = { floorMs: 20_000, baseMs: 60_000, capMs: 60_000 };
/** What only a person changes is looked at this often. */
const decisionWait = { floorMs: 10_000, baseMs: 60_000, capMs: 60_000 };
const waitsForPeople = new Set([
  "AGENT_CONFLICT",
  "AWAITING_DECISION",
  "CLOCK_SKEW",
  "PROTOCOL_UNSUPPORTED",
  "CLIENT_CERTIFICATE_REQUIRED",
  "CLIENT_CERTIFICATE_MISMATCH",
]);

export interface ConnectPorts {
  /** Signs with a counter above the last one, and above `floor`. */
  sign(floor: number): Promise<string>;
  /** How each session is carried. */
  choice: TransportChoice;
  dial(kind: TransportKind): AgentTransport;
  serve(transport: AgentTransport, assertion: string, signal: AbortSignal): Promise<SessionEnd>;
  clock: Clock;
  log: Log;
  random?: () => number;
}

/**
 * Keeps one session alive until `signal` aborts or the server refuses this
 * agent for good. Never throws for what a network does; throws where the
 * agent's own disk fails.
 */
export async function connect(ports: ConnectPorts, signal: AbortSignal): Promise<ConnectEnd> {
  const { clock, log, random = Math.random } = ports;
  let phase: Phase = { kind: "dialling", attempt: 0 };
  /** What the server has seen of this agent's counter, where that was more than this disk knew. */
  let floor = 0;
  for (;;) {
    switch (phase.kind) {
      case "dialling": {
        if (signal.aborted) {
          phase = { kind: "ended", because: { kind: "stopped" } };
          break;
        }
        const assertion = await ports.sign(floor);
        phase = {
          kind: "serving",
          transport: ports.dial(ports.choice.next()),
          assertion,
          attempt: phase.attempt,
          since: clock.monotonicMs(),
        };
        break;
      }
      case "serving": {
        const end: SessionEnd = await ports.serve(phase.transport, phase.assertion, signal);
        phase.transport.close(); // N1
        const livedMs = clock.monotonicMs() - phase.since;
        ports.choice.ended(phase.transport.kind, end, livedMs);
        const stable = livedMs >= stableAfterMs;
        phase = after(end, stable ? 0 : phase.attempt);
        break;
      }
      case "waiting":
        await clock.sleep(phase.forMs, signal);
        phase = { kind: "dialling", attempt: phase.attempt };
        break;
      case "ended":
        return phase.because;
      default:
        phase satisfies never;
    }
  }

  function after(end: SessionEnd, attempt: number): Phase {
    switch (end.kind) {
      case "stopped":
        return { kind: "ended", because: end };
      case "refused":
        return { kind: "ended", because: end };
      case "drained": {
        const forMs = Math.max(backoff.floorMs, Math.round(end.waitMs)); // N2
        log.info({ waitMs: forMs }, "the server asked to connect again");
        return { kind: "waiting", attempt: 0, forMs };
      }
      case "superseded": {
        const forMs = fullJitter(supersededWait, attempt, random);
        log.warn({ waitMs: forMs }, "another process with this agent's identity took over");
        return { kind: "waiting", attempt: attempt + 1, forMs };
      }
      case "replayed": {
        floor = Math.max(floor, end.floor);
        log.warn({ floor: end.floor }, "the server knows a higher counter than this disk; signing above it");
        return { kind: "waiting", attempt: attempt + 1, forMs: fullJitter(backoff, attempt, random) };
      }
      case "streams-pass":
        return { kind: "waiting", attempt: 0, forMs: backoff.floorMs };
      case "lost": {
        const bounds = waitsForPeople.has(end.reason) ? decisionWait : backoff;
        const forMs = Math.max(end.retryAfterMs ?? 0, fullJitter(bounds, attempt, random));
        const how = ports.choice.next();
        log.warn(
          { reason: end.reason, detail: end.message, waitMs: forMs, next: how },
          "no session; the agent dials again",
        );
        return { kind: "waiting", attempt: attempt + 1, forMs };
      }
      default:
        return end satisfies never;
    }
  }
}
