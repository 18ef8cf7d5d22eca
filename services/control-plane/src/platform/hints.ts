/**
 * What replicas know of one another beside the database: hints, every one of
 * which may be lost. With Redis, through Redis (redis/link.ts); without it, or
 * while it is away, words go by NOTIFY and presence is what the rows say.
 */
import { createNotices, type DatabaseAddress, type Notices } from "@bowline/db";
import type { Clock } from "@bowline/kernel";
import type { Metrics } from "./metrics.ts";
import { createPresence, type Presence } from "./presence.ts";
import { everyone, type RedisAddress } from "./redis/address.ts";
import type { RedisCredentials } from "./redis/clients.ts";
import type { RedisLink } from "./redis/link.ts";
import { createWords, noticeChannel, type Way, type Word, type Words } from "./words.ts";

export interface HintsPorts {
  redis: { address: RedisAddress; credentials: RedisCredentials } | undefined;
  /** Undefined: no other replica can be on this database. */
  database: DatabaseAddress | undefined;
  installationId: string;
  replicaId: string;
  clock: Clock;
  log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  metrics: Pick<Metrics, "redisCommand" | "wordSent" | "breakerOpen" | "presenceLag" | "presenceOnline" | "dropped">;
}

export interface Hints {
  words: Words;
  presence: Presence;
  /** True while Redis is set and away: everything works, slower. */
  degraded(): boolean;
  /** What waits to be told to others, by queue. */
  waiting(): Record<"words" | "presence", number>;
  /** Whether a Redis is set. */
  redisIsSet: boolean;
  /** Redis answered within `ms`; true where none is set. */
  answered(ms: number): Promise<boolean>;
  /** Set before anything is served. */
  on: {
    word(word: Word, way: Way): void;
    /** Something may have been missed. */
    gap(): void;
  };
  run(signal: AbortSignal): Promise<void>;
}

/** A scrape comes no more often. */
const lagEveryMs = 1_000;

export async function openHints(ports: HintsPorts): Promise<Hints> {
  const link = ports.redis && (await openLink(ports, ports.redis));
  return createHints(ports, link);
}

/** The client of Redis is loaded only where there is one: it is a tenth of what a start costs. */
async function openLink(
  { replicaId, installationId, clock, log, metrics }: HintsPorts,
  redis: NonNullable<HintsPorts["redis"]>,
): Promise<RedisLink> {
  const { createRedisLink } = await import("./redis/link.ts");
  return createRedisLink({
    ...redis,
    ...{ installationId, replicaId, clock, log },
    observe: (command, seconds, ok) => metrics.redisCommand(command, seconds, ok),
  });
}

function createHints(ports: HintsPorts, link: RedisLink | undefined): Hints {
  const { replicaId, clock, log } = ports;
  const notices: Notices | undefined =
    ports.database === undefined
      ? undefined
      : createNotices({
          address: ports.database,
          applicationName: `bowline ${replicaId} notices`,
          channels: [noticeChannel(replicaId), noticeChannel(everyone)],
          heard: (payload) => words.receive(payload, "notify"),
          gap: () => hints.on.gap(),
          log,
        });
  const words = createWords({
    replicaId,
    redis: link,
    notices,
    sent: (way) => ports.metrics.wordSent(way),
    dropped: () => ports.metrics.dropped("words"),
  });
  const presence = createPresence({
    redis: link,
    replicaId,
    clock,
    log,
    dropped: () => ports.metrics.dropped("presence"),
  });
  const hints: Hints = {
    words,
    presence,
    redisIsSet: link !== undefined,
    waiting: () => ({ words: words.waiting(), presence: presence.waiting() }),
    degraded: () => link?.isAway() === true,
    answered: async (ms) => link === undefined || link.answered(ms),
    on: { word: () => undefined, gap: () => undefined },
    async run(signal) {
      await Promise.all([
        link?.run(signal),
        notices?.run(signal),
        words.run(signal),
        presence.run(signal),
        tellLag(signal),
      ]);
    },
  };
  async function tellLag(signal: AbortSignal): Promise<void> {
    while (link !== undefined && !signal.aborted) {
      const { lagMs, online } = presence.facts();
      if (lagMs !== undefined) ports.metrics.presenceLag(lagMs / 1_000);
      if (online !== undefined) ports.metrics.presenceOnline(online);
      await clock.sleep(lagEveryMs, signal);
    }
  }

  words.on.word = (word, way) => hints.on.word(word, way);
  if (link !== undefined) {
    link.on.message = (text) => words.receive(text, "redis");
    ports.metrics.breakerOpen(true); // until it answers
    link.on.away = (away) => {
      ports.metrics.breakerOpen(away);
      hints.on.gap(); // polls come more often now, or what was missed is looked for
    };
    link.on.gap = () => {
      presence.rewrite();
      hints.on.gap();
    };
  }
  return hints;
}
