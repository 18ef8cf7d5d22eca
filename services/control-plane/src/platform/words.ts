/**
 * What replicas tell one another: where to look. A word names rows, it never
 * says what is in them; whoever hears it reads them. So a word that is lost,
 * doubled, late or false costs time and changes nothing (E1–E7 never rest on one).
 *
 * W1: nobody waits for a word: sending only gathers. Words to one replica
 *     share a message; what gathers while one is on its way goes with the next.
 * W2: Redis carries them; where it is away, or nobody listened there, the same
 *     words go by NOTIFY, on a connection of its own. Else the receiver's poll finds it.
 */
import { createBell } from "./bell.ts";
import { everyone } from "./redis/address.ts";
import type { RedisLink } from "./redis/link.ts";

/** Where one replica should look, by agents' ids; of tunnels by theirs. */
export interface Word {
  /** There may be commands to claim. */
  wake?: readonly string[];
  /** There may be cancels, or pushes that have no receipt, to be sent. */
  tell?: readonly string[];
  /** The session's row changed: it may have ended, or moved. */
  look?: readonly string[];
  /** Agents of this replica are to open these tunnels. */
  tunnels?: readonly string[];
  /** Events were placed, for watches. */
  placed?: boolean;
}

export type Way = "redis" | "notify";

export interface WordsPorts {
  replicaId: string;
  /** Undefined: no Redis is set. */
  redis: Pick<RedisLink, "isAway" | "publish"> | undefined;
  /** Undefined: no other replica can be on this database. */
  notices: { send(channel: string, payload: string): boolean; listening(): boolean } | undefined;
  /** A message was sent. */
  sent(way: Way): void;
  /** An id found no place. */
  dropped(): void;
}

export interface Words {
  send(replicaId: string, word: Word): void;
  /** Tells all others that events were placed. */
  placed(): void;
  /** What came from another replica. */
  receive(text: string, way: Way): void;
  /** True where words reach this replica as they should: by Redis if it is set, else by NOTIFY, else there is nobody to send any. */
  hears(): boolean;
  /** Ids that wait to be sent. */
  waiting(): number;
  /** Set before `run`. */
  on: { word(word: Word, way: Way): void };
  run(signal: AbortSignal): Promise<void>;
}

/** Of one replica's channel in PostgreSQL; ids are below its limit of 63 bytes. */
export const noticeChannel = (to: string): string => `bowline_${to}`;

/** Ids of one message: below the 8000 bytes of a NOTIFY. */
const idsPerMessage = 150;
/** Ids that wait to be sent to one replica; more than one replica holds is a defect, and its poll finds them. */
const maxWaiting = 50_000;
/** A longer message is none of ours. */
const maxMessageBytes = 16_384;
/** Without a wake-up the sender looks this often; it has none to miss. */
const idleMs = 60_000;

const kinds = ["wake", "tell", "look", "tunnels"] as const;
type Gathered = Record<(typeof kinds)[number], Set<string>> & { placed: boolean };

export function createWords(ports: WordsPorts): Words {
  const { redis, notices } = ports;
  const bell = createBell();
  let gathered = new Map<string, Gathered>();

  function gather(to: string): Gathered {
    let found = gathered.get(to);
    if (found === undefined) {
      found = { wake: new Set(), tell: new Set(), look: new Set(), tunnels: new Set(), placed: false };
      gathered.set(to, found);
    }
    return found;
  }

  async function send(to: string, text: string): Promise<void> {
    if (redis !== undefined && !redis.isAway()) {
      try {
        if (await redis.publish(to, text)) return ports.sent("redis");
      } catch {
        // The breaker has counted it; W2.
      }
    }
    if (notices?.send(noticeChannel(to), text) === true) ports.sent("notify");
  }

  const words: Words = {
    on: { word: () => undefined },
    send(to, word) {
      if (redis === undefined && notices === undefined) return;
      const sets = gather(to);
      for (const kind of kinds) {
        for (const id of word[kind] ?? []) {
          if (sets[kind].size < maxWaiting) sets[kind].add(id);
          else ports.dropped();
        }
      }
      sets.placed ||= word.placed === true;
      bell.ring();
    },
    placed: () => words.send(everyone, { placed: true }),
    receive(text, way) {
      const heard = parse(text);
      if (heard === undefined || heard.from === ports.replicaId) return;
      words.on.word(heard.word, way);
    },
    hears() {
      if (redis !== undefined) return !redis.isAway();
      return notices === undefined || notices.listening();
    },
    waiting: () =>
      [...gathered.values()].reduce((sum, sets) => sum + kinds.reduce((of, kind) => of + sets[kind].size, 0), 0),
    async run(signal) {
      while (!signal.aborted) {
        const seen = bell.count();
        const now = gathered;
        gathered = new Map();
        await Promise.all(
          [...now].flatMap(([to, sets]) => messagesOf(ports.replicaId, sets).map((text) => send(to, text))),
        );
        if (gathered.size === 0) await bell.wait(seen, idleMs, signal);
      }
    },
  };
  return words;
}

function messagesOf(from: string, sets: Gathered): string[] {
  const messages: string[] = [];
  if (sets.placed) messages.push(JSON.stringify({ from, placed: true }));
  for (const kind of kinds) {
    const ids = [...sets[kind]];
    while (ids.length > 0) messages.push(JSON.stringify({ from, [kind]: ids.splice(0, idsPerMessage) }));
  }
  return messages;
}

/** Anybody may write to a channel of Redis: what isn't a word is nothing. */
function parse(text: string): { from: string; word: Word } | undefined {
  if (text.length > maxMessageBytes) return undefined;
  try {
    const given = JSON.parse(text) as Record<string, unknown> | null;
    if (given === null || typeof given !== "object") return undefined;
    const word: { -readonly [Kind in keyof Word]: Word[Kind] } = { placed: given["placed"] === true };
    for (const kind of kinds) {
      const ids = given[kind];
      if (Array.isArray(ids)) word[kind] = ids.filter((id) => typeof id === "string");
    }
    return { from: typeof given["from"] === "string" ? given["from"] : "", word };
  } catch {
    return undefined;
  }
}
