/**
 * Who is connected, through which replica: kept in Redis by the replica that
 * holds the session, for the others' answers.
 *
 * P1: a hint. An entry counts only where the session's row says the same
 *     replica and epoch; nothing but answers to people reads one.
 * P2: an entry yields only to a higher epoch, and is deleted only by its own
 *     session. Where a higher one stands, and the row says that it lies, it is
 *     overwritten.
 * P3: a script takes many agents' keys at once, and works with one, which is
 *     what it gets where a Redis Cluster has them on different nodes.
 *
 *     bowline:<installation>:agent:<id>   hash: replica, session, epoch, heard (ms since 1970); TTL 45 s
 *     bowline:<installation>:online       sorted set of agents by the time (Redis's) when they count no more
 *     bowline:<installation>:replica:<id> TTL 15 s (redis/link.ts)
 */
import type { Clock } from "@bowline/kernel";
import { createBell } from "./bell.ts";
import type { RedisLink } from "./redis/link.ts";

export interface HeldSession {
  agentId: string;
  sessionId: string;
  epoch: number;
  lastSeen: Date;
}

export interface PresencePorts {
  /** Undefined: no Redis is set; presence is what this replica holds itself. */
  redis: Pick<RedisLink, "isAway" | "call" | "key"> | undefined;
  replicaId: string;
  clock: Clock;
  log: { warn(fields: object, message: string): void };
  /** A session found no place among those that wait to be written. */
  dropped: () => void;
}

/** An agent as its session's row shows it. */
export interface AgentAsked {
  id: string;
  epoch: number;
  replicaId: string;
  /** By the database's clock. */
  openForMs: number;
}

/** What presence says; nothing where the rows must do. */
export interface Seen {
  lastHeard(agentId: string): Date | undefined;
  /** True where the answer about this agent comes from the database alone, though presence should know more. */
  degraded(agentId: string): boolean;
}

export interface Presence extends Seen {
  /** Asks for agents whose sessions are open elsewhere; within 250 ms, whatever Redis does. */
  of(agents: readonly AgentAsked[]): Promise<Seen>;
  /** A session of this replica opened or ended. */
  changed(session: HeldSession, open: boolean): void;
  /** Writes all entries again soon: what was there may be lost. */
  rewrite(): void;
  /** Sessions that wait to be written. */
  waiting(): number;
  /** Agents in the sorted set, and ms since this replica's entries were all written. Undefined: not yet. */
  facts(): { online: number | undefined; lagMs: number | undefined };
  /** What this replica holds; set before `run`. */
  held: {
    all(): Iterable<HeldSession>;
    of(agentId: string): HeldSession | undefined;
    /** Ends those of these agents' sessions here that their rows no longer know. */
    check(agentIds: readonly string[]): Promise<void>;
  };
  run(signal: AbortSignal): Promise<void>;
}

const ttlMs = 45_000;
/** Two writes may get lost before an entry goes. */
const refreshEveryMs = 15_000;
/** Entries of one script: about a millisecond in which Redis answers nobody else. */
const perScript = 200;
/** Keys of one answer; a page has no more agents. */
const maxAsked = 1_000;
/** Sessions that opened or ended and wait to be written; beyond it the next refresh does. */
const maxChanged = 20_000;
/** A session that has just opened needn't be in Redis yet. */
const settledAfterMs = 5_000;

/** Of each key whether it was written. ARGV: replica, TTL, force; then epoch, session and heard of each key. */
const keepScript = `
local written = {}
for i, key in ipairs(KEYS) do
  local epoch, session, heard = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  local stands = redis.pcall('HGET', key, 'epoch')
  if type(stands) == 'table' then -- no hash: not ours
    redis.call('DEL', key)
    stands = false
  end
  stands = tonumber(stands or nil)
  if ARGV[3] == '0' and stands and stands > tonumber(epoch) then
    written[i] = 0
  else
    redis.call('HSET', key, 'epoch', epoch, 'replica', ARGV[1], 'session', session, 'heard', heard)
    redis.call('PEXPIRE', key, ARGV[2])
    written[i] = 1
  end
end
return written`;

/** Of each key whether it was deleted. ARGV: the session of each key. */
const forgetScript = `
local deleted = {}
for i, key in ipairs(KEYS) do
  deleted[i] = redis.pcall('HGET', key, 'session') == ARGV[i] and redis.call('DEL', key) or 0
end
return deleted`;

const onlineScript = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV do
  if ARGV[2] == '1' then redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) else redis.call('ZREM', KEYS[1], ARGV[i]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZCARD', KEYS[1])`;

export function createPresence({ redis, replicaId, clock, log, dropped }: PresencePorts): Presence {
  const bell = createBell();
  const opened = new Map<string, HeldSession>();
  const ended = new Map<string, HeldSession>();
  let refreshAt = 0;
  let online: number | undefined;
  let writtenAt: number | undefined;

  /** P3. What the script answers of each session; `shared` are its first arguments, `own` those of each session. */
  async function each(
    link: NonNullable<typeof redis>,
    lua: string,
    sessions: readonly HeldSession[],
    shared: readonly (string | number)[],
    own: (session: HeldSession) => readonly (string | number)[],
  ): Promise<unknown[]> {
    return link.call("presence", async (commands) => {
      const run = async (some: readonly HeldSession[]): Promise<unknown[]> => {
        const keys = some.map(({ agentId }) => link.key("agent", agentId));
        return (await commands.run(lua, keys, [...shared, ...some.flatMap(own)])) as unknown[];
      };
      if (commands.manyKeys) return run(sessions);
      return (await Promise.all(sessions.map((session) => run([session])))).flat();
    });
  }

  /** P2. Returns the agents whose entry stayed, because a higher epoch stands there. */
  async function keep(
    link: NonNullable<typeof redis>,
    sessions: readonly HeldSession[],
    force: boolean,
  ): Promise<string[]> {
    const own = ({ sessionId, epoch, lastSeen }: HeldSession) => [epoch, sessionId, lastSeen.getTime()];
    const written = await each(link, keepScript, sessions, [replicaId, ttlMs, force ? 1 : 0], own);
    return sessions.filter((_, at) => written[at] === 0).map(({ agentId }) => agentId);
  }

  async function count(link: NonNullable<typeof redis>, agentIds: readonly string[], here: boolean): Promise<void> {
    const cardinality = await link.call("presence", (commands) =>
      commands.run(onlineScript, [link.key("online")], [ttlMs, here ? 1 : 0, ...agentIds]),
    );
    online = typeof cardinality === "number" ? cardinality : online;
  }

  async function write(link: NonNullable<typeof redis>, sessions: readonly HeldSession[]): Promise<void> {
    for (let from = 0; from < sessions.length; from += perScript) {
      const some = sessions.slice(from, from + perScript);
      const stayed = await keep(link, some, false);
      if (stayed.length > 0) {
        await presence.held.check(stayed);
        const mine = stayed.flatMap((agentId) => presence.held.of(agentId) ?? []);
        if (mine.length > 0) {
          log.warn({ agentIds: mine.map(({ agentId }) => agentId) }, "presence named another replica; the rows don't");
          await keep(link, mine, true);
        }
      }
      await count(
        link,
        some.map(({ agentId }) => agentId),
        true,
      );
    }
  }

  async function forget(link: NonNullable<typeof redis>, sessions: readonly HeldSession[]): Promise<void> {
    for (let from = 0; from < sessions.length; from += perScript) {
      const some = sessions.slice(from, from + perScript);
      const deleted = await each(link, forgetScript, some, [], ({ sessionId }) => [sessionId]);
      const gone = some.filter((_, at) => deleted[at] === 1).map(({ agentId }) => agentId);
      if (gone.length > 0) await count(link, gone, false);
    }
  }

  async function work(link: NonNullable<typeof redis>): Promise<void> {
    const gone = [...ended.values()];
    ended.clear();
    await forget(link, gone);
    const everything = clock.monotonicMs() >= refreshAt;
    const sessions = everything ? [...presence.held.all()] : [...opened.values()];
    opened.clear();
    await write(link, sessions);
    if (!everything) return;
    if (sessions.length === 0) await count(link, [], true);
    writtenAt = clock.monotonicMs();
    refreshAt = writtenAt + refreshEveryMs * (0.85 + 0.3 * Math.random());
  }

  const presence: Presence = {
    held: { all: () => [], of: () => undefined, check: async () => undefined },
    lastHeard: (agentId) => presence.held.of(agentId)?.lastSeen,
    degraded: () => redis?.isAway() === true,
    async of(agents) {
      if (redis === undefined || redis.isAway()) return presence;
      const elsewhere = agents.filter(({ id }) => presence.held.of(id) === undefined).slice(0, maxAsked);
      if (elsewhere.length === 0) return presence;
      const heard = new Map<string, Date>();
      const missed = new Set<string>();
      let answers: (string | null)[][] = [];
      try {
        answers = await redis.call("presence-read", (commands) =>
          Promise.all(elsewhere.map(({ id }) => commands.hmget(redis.key("agent", id), "replica", "epoch", "heard"))),
        );
      } catch {
        // The breaker counted it; each of these is answered from its rows.
      }
      for (const [at, agent] of elsewhere.entries()) {
        const [by, epoch, at_] = answers[at] ?? [];
        if (by === agent.replicaId && epoch === String(agent.epoch)) heard.set(agent.id, new Date(Number(at_))); // P1
        else if (agent.openForMs > settledAfterMs) missed.add(agent.id);
      }
      return {
        lastHeard: (agentId) => presence.lastHeard(agentId) ?? heard.get(agentId),
        degraded: (agentId) => missed.has(agentId) || presence.degraded(agentId),
      };
    },
    changed(session, open) {
      if (redis === undefined) return;
      const [to, from] = open ? [opened, ended] : [ended, opened];
      if (from.get(session.agentId)?.sessionId === session.sessionId) from.delete(session.agentId);
      if (to.size < maxChanged) to.set(session.agentId, session);
      else dropped();
      bell.ring();
    },
    waiting: () => opened.size + ended.size,
    rewrite() {
      refreshAt = 0;
      bell.ring();
    },
    facts: () => ({ online, lagMs: writtenAt === undefined ? undefined : clock.monotonicMs() - writtenAt }),
    async run(signal) {
      if (redis === undefined) return;
      while (!signal.aborted) {
        const seen = bell.count();
        if (redis.isAway()) {
          // What ended meanwhile runs out there by itself; what is open is written when Redis is back.
          opened.clear();
          ended.clear();
          refreshAt = 0;
        } else {
          await work(redis).catch(() => (refreshAt = 0)); // counted by the breaker; all is written with the next turn
        }
        const wait = redis.isAway() || refreshAt === 0 ? retryMs : refreshAt - clock.monotonicMs();
        await bell.wait(seen, Math.max(1, wait), signal);
      }
    },
  };
  return presence;
}

/** After a failure; the breaker's probes come as often. */
const retryMs = 1_000;
