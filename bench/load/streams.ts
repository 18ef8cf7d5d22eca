/** Many agents that only hold their streams: echoes, heartbeats at a pace, and a return after their server was killed. */
import { setTimeout as sleep } from "node:timers/promises";
import { CommandReceipt_Disposition as Receipt } from "@bowline/contract/agent";
import { fullJitter } from "@bowline/kernel";
import { type OpenAgent, openAgent } from "./agent.ts";
import type { Credentials } from "./enrol.ts";
import type { Protocol } from "./wire.ts";

/** One loopback address has 28,000 ports, and each stream a connection of its own. */
const addresses = 8;
/** What every agent does whose server is gone: full jitter, 1 s to 60 s, never sooner than a quarter of a second. */
const backoff = { baseMs: 1_000, capMs: 60_000, floorMs: 250 };
/** Of an agent, before the first measurement. */
const dialsBefore = 8;
const allBackWithinMs = 300_000;
/** What a server says to its agents by default; idle ones keep to it. */
const heartbeatMs = 15_000;
/** Turns in which an interval's heartbeats are said, so that they come spread out. */
const turns = 100;

export interface StreamsOptions {
  url: string;
  agents: readonly Credentials[];
  protocol: Protocol;
  ca?: string | undefined;
  /** Dials under way at the same time. */
  together: number;
  /** Each says a heartbeat per 15 s, as idle agents do; without, they are silent. */
  idle?: boolean | undefined;
}

/** What an agent's server says beside acknowledgements is not counted. */
interface Held {
  credentials: Credentials;
  agent: OpenAgent | undefined;
  /** Why its stream ended, where it has. */
  lost: string | undefined;
  /** Called with each acknowledgement of a heartbeat. */
  acknowledged: () => void;
  beats: number;
}

export interface Streams {
  /** Each agent says the next when the last is answered, for `forMs`; how many were answered. */
  echo(options: { forMs: number; receiptEach: number }): Promise<{ roundTrips: number; seconds: number }>;
  /** Each agent says one per `everyMs`, spread evenly over it, for `forMs`; how many were answered. */
  beat(options: { everyMs: number; forMs: number }): Promise<{ roundTrips: number }>;
  /** Waits for the end of the streams and dials again, as agents do, until all are back; ms from the first end. */
  comeBack(): Promise<{ ms: number; dials: number }>;
  /** Throws void where a stream has ended since it was opened. */
  allOpen(): void;
  close(): void;
}

export async function openStreams({
  url,
  agents,
  protocol,
  ca,
  together,
  idle = false,
}: StreamsOptions): Promise<Streams> {
  const held: Held[] = agents.map((credentials) => ({
    ...{ credentials, agent: undefined, lost: undefined, acknowledged: () => undefined, beats: 0 },
  }));
  const open = async (one: Held, index: number): Promise<void> => {
    const localAddress = `127.0.0.${2 + (index % addresses)}`;
    one.lost = undefined;
    one.agent = await openAgent({ url, ca, localAddress }, one.credentials, {
      protocol,
      heard: ({ case: kind }) => {
        if (kind === "heartbeatAck") one.acknowledged();
      },
    });
    void one.agent.ended.then((why) => (one.lost = why));
  };
  const beat = (one: Held): void => {
    one.beats += 1;
    one.agent?.send({ case: "heartbeat", value: { number: one.beats, capacity: { placesFree: 16 } } });
  };
  let next = 0;
  const dialling = async (): Promise<void> => {
    for (;;) {
      const index = next;
      next += 1;
      const one = held[index];
      if (one === undefined) return;
      for (let attempt = 0; ; attempt += 1) {
        try {
          await open(one, index);
          break;
        } catch (error) {
          // A busy server refuses, and its agents come again; one that refuses all the time is broken.
          if (attempt === dialsBefore) throw error;
          await sleep(fullJitter(backoff, attempt));
        }
      }
    }
  };
  let turn = 0;
  const beating = idle
    ? setInterval(() => {
        turn += 1;
        for (let index = turn % turns; index < held.length; index += turns) {
          const one = held[index];
          if (one?.agent !== undefined && one.lost === undefined) beat(one);
        }
      }, heartbeatMs / turns)
    : undefined;
  await Promise.all(Array.from({ length: together }, dialling));

  return {
    async echo({ forMs, receiptEach }) {
      let roundTrips = 0;
      const startedAt = performance.now();
      await Promise.all(
        held.map(
          (one) =>
            new Promise<void>((resolve, reject) => {
              one.acknowledged = () => {
                roundTrips += 1;
                if (one.beats % receiptEach === 0) {
                  // Of a command that is long over: checked against the rows, and changes nothing.
                  const value = { commandId: "command_over", attempt: 1, disposition: Receipt.ACCEPTED };
                  one.agent?.send({ case: "commandReceipt", value });
                }
                if (performance.now() - startedAt < forMs) beat(one);
                else resolve();
              };
              void one.agent?.ended.then((why) => reject(new Error(`void: a stream ended: ${why}`)));
              beat(one);
            }),
        ),
      );
      return { roundTrips, seconds: (performance.now() - startedAt) / 1000 };
    },
    async beat({ everyMs, forMs }) {
      let answered = 0;
      let said = 0;
      for (const one of held) one.acknowledged = () => void (answered += 1);
      const startedAt = performance.now();
      for (let passed = 0; passed < forMs; passed = performance.now() - startedAt) {
        const due = Math.floor((Math.min(passed, forMs) / everyMs) * held.length);
        for (; said < due; said += 1) {
          const one = held[said % held.length];
          if (one !== undefined) beat(one);
        }
        await sleep(10);
      }
      await sleep(500); // the last answers
      if (answered !== said) throw new Error(`void: of ${said} heartbeats ${answered} were answered`);
      return { roundTrips: answered };
    },
    async comeBack() {
      let dials = 0;
      const ended = held.map(async ({ agent }) => void (await agent?.ended));
      await Promise.race(ended);
      const startedAt = performance.now();
      const late = AbortSignal.timeout(allBackWithinMs);
      await Promise.all(
        held.map(async (one, index) => {
          await ended[index];
          for (let attempt = 0; ; attempt += 1) {
            late.throwIfAborted();
            await sleep(fullJitter(backoff, attempt));
            dials += 1;
            try {
              return await open(one, index);
            } catch {
              // Not there yet, or more than it takes at once: later.
            }
          }
        }),
      );
      return { ms: performance.now() - startedAt, dials };
    },
    allOpen() {
      const lost = held.filter((one) => one.lost !== undefined);
      if (lost.length > 0) throw new Error(`void: ${lost.length} streams ended: ${lost[0]?.lost}`);
    },
    close() {
      clearInterval(beating);
      for (const { agent } of held) agent?.drop();
    },
  };
}
