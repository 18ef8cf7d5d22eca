/**
 * One session of a simulated agent, from greeting to end: the words of a real
 * one (agents/core/src/serve.ts), without its disk and its runtime.
 *
 *   work.ts     takes what is pushed, and ends it when its time is over
 *   journal.ts  what outlives the session
 */
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";
import { type ConnectResponse, ResultAck_Disposition as Ack, type ServerMessage } from "@bowline/contract/agent";
import { refusalOf, silenceLimitMs } from "@bowline/session";
import type { AgentConnection, AgentStream, Said } from "./connection.ts";
import type { MemoryJournal } from "./journal.ts";
import type { AgentNotes, AgentWorld } from "./ports.ts";
import { createWork, type WorkPlan } from "./work.ts";

/** How a session ended. */
export type SessionEnd =
  /** In order: this agent said goodbye, because it stops or was asked to. */
  | { kind: "left" }
  | { kind: "superseded" }
  /** The server knows a higher counter. */
  | { kind: "replayed"; floor: number }
  | { kind: "lost"; reason: string; retryAfterMs: number; greeted: boolean };

/** What it can be told from outside while it lasts. */
export interface Session {
  /** Resolves with its end. */
  readonly ended: Promise<SessionEnd>;
  readonly greeting: ConnectResponse | undefined;
  /** Says goodbye; what was said before still goes out. */
  leave(reason: string): void;
  drop(): void;
  /** Reads nothing any more, and asks for more to read. */
  stopReading(): void;
}

export interface SessionFacts {
  processId: string;
  runtime: string;
  runtimeIdentity: string;
  labels: Record<string, string>;
}

export interface SessionPorts {
  world: AgentWorld;
  notes: AgentNotes;
  connection: AgentConnection;
  journal: MemoryJournal;
  facts: SessionFacts;
  /** This agent's clock, ms since 1970. */
  now(): number;
  plan: WorkPlan;
  /** Default: what the server says in its greeting. */
  heartbeatMs: number | undefined;
}

export const simulatedVersion = "0.0.0-simulated";
/** Heartbeats vary by this share, so that a fleet's don't come together. */
const heartbeatJitter = 0.1;
/** A result without an answer for this long is said again with the next heartbeat. */
const repeatAfterMs = 10_000;
/** As a real agent's connection is pinged. */
const pingEveryMs = 20_000;
const pingWithinMs = 10_000;
const lookForGreetingMs = 1_000;
/** A slow reader asks for this many answers of half a kilobyte: more than a stream's buffers hold without a window. */
const unreadAnswers = 256;
/** Deployments of a report: each has some hundred bytes, and a message 64 KiB. */
const maxStates = 64;
const capacity = { placesFree: 16 } as const;

export function openSession(ports: SessionPorts, assertion: string): Session {
  const { world, notes, connection, journal, facts } = ports;
  const { wheel } = world;
  let settle: (end: SessionEnd) => void = () => {};
  const ended = new Promise<SessionEnd>((resolve) => (settle = resolve));
  let end: SessionEnd | undefined;
  let greeting: ConnectResponse | undefined;
  let accessToken = "";
  let heardAt = performance.now();
  let heartbeats = 0;
  let beatAt = 0;
  let silenceMs = silenceLimitMs;
  let pingedAt: number | undefined;
  let reads = true;
  let work: ReturnType<typeof createWork> | undefined;

  const finish = (how: SessionEnd): void => {
    if (end !== undefined) return;
    end = how;
    work?.detach();
    settle(how);
  };
  const lost = (reason: string, retryAfterMs = 0): void =>
    finish({ kind: "lost", reason, retryAfterMs, greeted: greeting !== undefined });
  const say = (message: Said): void => stream.send(message);

  const stream: AgentStream = connection.stream(`Bearer ${assertion}`, {
    heard(message) {
      heardAt = performance.now();
      if (end === undefined) hear(message);
    },
    ended(error) {
      if (error === undefined) lost("CLOSED");
      else refused(error);
    },
  });
  say({
    case: "connectRequest",
    value: {
      ...facts,
      agentVersion: simulatedVersion,
      protocolMin: 1,
      protocolMax: 1,
      runtimeVersion: "simulated",
      capabilities: ["gateway-class/embedded"],
      journalId: journal.id,
      journalCounter: 1,
      highestEpoch: journal.epoch,
      incarnation: journal.incarnation,
      stateDigest: journal.stateDigest(),
      highestGeneration: [...journal.highest.values()].reduce((most, { generation }) => Math.max(most, generation), 0),
      capacity,
    },
  });
  every(() => Math.min(greeting === undefined ? lookForGreetingMs : pingEveryMs, silenceMs / 2), watch);
  return {
    ended,
    get greeting() {
      return greeting;
    },
    leave,
    drop() {
      lost("DROPPED");
      connection.cut();
    },
    stopReading() {
      reads = false;
      stream.stopReading();
      for (let count = 0; count < unreadAnswers; count += 1) say({ case: "tokenRequest", value: {} });
    },
  };

  function refused(error: ConnectError): void {
    const { reason, retryAfterMs, metadata } = refusalOf(error);
    const floor = Number(metadata["floor"]);
    if (reason === "ASSERTION_REPLAYED" && floor > 0) finish({ kind: "replayed", floor });
    else lost(reason, retryAfterMs);
  }

  function hear({ message }: ServerMessage): void {
    switch (message.case) {
      case "connectResponse":
        return welcomed(message.value);
      case "syncReply":
        for (const ack of message.value.results) acknowledged(ack.commandId, ack.attempt, ack.disposition);
        for (const { commandId, attempt, action } of message.value.decisions) work?.decided(commandId, attempt, action);
        if (message.value.last) served();
        return;
      case "deployCommand":
        return work?.push(message.value);
      case "cancelCommand":
        return work?.cancel(message.value.commandId, message.value.attempt);
      case "resultAck":
        return acknowledged(message.value.commandId, message.value.attempt, message.value.disposition);
      case "sessionToken":
        accessToken = message.value.accessToken;
        return;
      case "heartbeatAck":
        if (message.value.number === heartbeats) notes.beat(performance.now() - beatAt);
        return;
      case "drain":
        wheel.after(world.random() * message.value.spreadMs, () => leave("the server asked to connect again"));
        return;
      case "superseded":
        finish({ kind: "superseded" });
        return stream.finish();
      default: // what a simulated agent has nothing to say to
    }
  }

  function welcomed(response: ConnectResponse): void {
    greeting = response;
    accessToken = response.accessToken;
    silenceMs = response.silenceLimitMs || silenceLimitMs;
    journal.epoch = Math.max(journal.epoch, response.epoch);
    journal.incarnation = response.incarnation;
    work = createWork({ ...ports, say, token: () => accessToken });
    for (const entry of journal.open.values()) if (entry.result !== undefined) entry.saidAt = performance.now();
    for (const value of journal.syncPages(!response.stateKnown)) say({ case: "sync", value });
    const everyMs = ports.heartbeatMs ?? response.heartbeatIntervalMs;
    every(() => everyMs * (1 + heartbeatJitter * (2 * world.random() - 1)), beat);
    const lifeMs = response.accessTokenLifeMs;
    if (lifeMs > 0) every(lifeMs / 2, () => say({ case: "tokenRequest", value: {} }));
    notes.phase("syncing");
  }

  function served(): void {
    notes.phase("serving");
    const states = [...journal.running.values()].flatMap(({ state }) => (state === undefined ? [] : [state]));
    for (let at = 0; at < states.length; at += maxStates) {
      journal.observation += 1;
      const deployments = states.slice(at, at + maxStates);
      say({ case: "stateReport", value: { observation: journal.observation, deployments } });
    }
  }

  function acknowledged(commandId: string, attempt: number, disposition: Ack): void {
    notes.answered(commandId, attempt, disposition);
    journal.acknowledged(commandId, attempt, disposition);
  }

  function beat(): void {
    heartbeats += 1;
    beatAt = performance.now();
    const { observation } = journal;
    const agentTime = timestampFromMs(ports.now());
    say({
      case: "heartbeat",
      value: { number: heartbeats, capacity, agentTime, stateDigest: journal.stateDigest(), observation },
    });
    for (const entry of journal.open.values()) {
      if (entry.result === undefined || beatAt - entry.saidAt < repeatAfterMs) continue;
      entry.saidAt = beatAt;
      say({ case: "deployResult", value: entry.result });
    }
  }

  /** Whoever says nothing, or answers no ping, is gone. */
  function watch(): void {
    if (!reads) return; // it hears nothing because it does not listen
    const now = performance.now();
    if (now - heardAt > silenceMs || (pingedAt !== undefined && now - pingedAt > pingWithinMs)) {
      lost(pingedAt === undefined ? "SILENT" : "NO_PONG");
      return connection.cut();
    }
    if (pingedAt !== undefined) return;
    pingedAt = now;
    connection.ping(() => (pingedAt = undefined));
  }

  function leave(reason: string): void {
    if (end !== undefined) return;
    if (greeting !== undefined) say({ case: "goodbye", value: { reason } });
    finish({ kind: "left" });
    stream.finish();
  }

  /** While the session lasts. */
  function every(ms: number | (() => number), act: () => void): void {
    const wait = (): void => {
      wheel.after(typeof ms === "number" ? ms : ms(), () => {
        if (end !== undefined) return;
        act();
        wait();
      });
    };
    wait();
  }
}
