/**
 * Who is connected, through which replica: kept in Redis by the replica that
 * holds the session, for the others' answers.
 *
 * P1: a hint. An entry counts only where the session's row says the same
 *     replica and epoch; nothing but answers to people reads one.
 * P2: an entry yields only to a higher epoch, and is deleted only by its own
 *     session. Where a higher one stands, and the row says that it lies, it is
 *     overwritten.
 * P3: each script touches one key, so that a Redis Cluster runs it too.
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
/** Entries of one pipeline: a millisecond of Redis's time. */
const perPipeline = 200;
/** Keys of one answer; a page has no more agents. */
const maxAsked = 1_000;
/** Sessions that opened or ended and wait to be written; beyond it the next refresh does. */
const maxChanged = 20_000;
/** A session that has just opened needn't be in Redis yet. */
const settledAfterMs = 5_000;

const keepScript = `
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or nil)
if ARGV[6] == '0' and epoch and epoch > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'replica', ARGV[2], 'session', ARGV[3], 'heard', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1`;

const forgetScript = `
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
if redis.call('HGET', KEYS[1], 'session') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`;

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

  /** P2. Returns the agents whose entry stayed, because a higher epoch stands there. */
  async function keep(
    link: NonNullable<typeof redis>,
    sessions: readonly HeldSession[],
    force: boolean,
  ): Promise<string[]> {
    const written = await link.call("presence", (commands) =>
      Promise.all(
        sessions.map(({ agentId, sessionId, epoch, lastSeen }) =>
          commands.eval(
            keepScript,
            1,
            link.key("agent", agentId),
            ...[epoch, replicaId, sessionId, lastSeen.getTime(), ttlMs, force ? 1 : 0],
          ),
        ),
      ),
    );
    return sessions.filter((_, at) => written[at] === 0).map(({ agentId }) => agentId);
  }

  async function count(link: NonNullable<typeof redis>, agentIds: readonly string[], here: boolean): Promise<void> {
    const cardinality = await link.call("presence", (commands) =>
      commands.eval(onlineScript, 1, link.key("online"), ttlMs, here ? 1 : 0, ...agentIds),
    );
    online = typeof cardinality === "number" ? cardinality : online;
  }

  async function write(link: NonNullable<typeof redis>, sessions: readonly HeldSession[]): Promise<void> {
    for (let from = 0; from < sessions.length; from += perPipeline) {
      const some = sessions.slice(from, from + perPipeline);
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
    for (let from = 0; from < sessions.length; from += perPipeline) {
      const some = sessions.slice(from, from + perPipeline);
      const deleted = await link.call("presence", (commands) =>
        Promise.all(
          some.map(({ agentId, sessionId }) => commands.eval(forgetScript, 1, link.key("agent", agentId), sessionId)),
        ),
      );
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
