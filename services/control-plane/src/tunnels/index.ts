/**
 * Tunnels: byte streams between whoever asks and an instance at an agent.
 *
 *   tunnel.ts  one that is open       relay.ts  from one replica to another
 *   rows.ts    where each is waited for             polling.ts, polled.ts  of agents that poll
 *
 * W1: the agent is asked by the replica that holds its session (a word, the row
 *     says which), and dials wherever its server's address leads; from there the
 *     tunnel is relayed to where it is waited for.
 * W2: who opens one is answered within a bound, whatever is lost on the way: the
 *     wish is said again until the agent has come.
 * W3: an agent that may not be here any more loses its tunnels within seconds,
 *     and so does a caller whose token is not valid any more.
 * W4: nobody is asked in the middle of Sync: the agent would end its session for
 *     it (libs/session/src/order.ts).
 */
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import type { EncryptionKey } from "@bowline/auth";
import { type TunnelRequest, type TunnelResponse, TunnelService } from "@bowline/contract/agent";
import { type Clock, newId, problem } from "@bowline/kernel";
import { hangUpKey, maxStreamMessageBytes, tunnelOpenWithinMs } from "@bowline/session";
import type { Logger } from "pino";
import type { Db } from "../platform/transactions.ts";
import type { Words } from "../platform/words.ts";
import { registerPolledTunnels } from "./polling.ts";
import { type Home, isRelayed, relay, relayCredential, relayedAgent, relayRequest } from "./relay.ts";
import {
  addTunnel,
  enrolled,
  holderOf,
  readTunnels,
  removeLeft,
  removeTunnel,
  stands,
  type TunnelWish,
} from "./rows.ts";
import { type Arrived, openTunnel, type Tunnel } from "./tunnel.ts";

export { relayCredential } from "./relay.ts";
export type { Tunnel } from "./tunnel.ts";

export interface TunnelPorts {
  db: Db;
  encryption: EncryptionKey;
  clock: Clock;
  log: Pick<Logger, "warn">;
  words: Pick<Words, "send">;
  replicaId: string;
  /** Where other replicas reach this one; empty: nowhere. */
  homeUrl(): string;
  /** PEM of whom to trust at other replicas' https://; undefined: whom the system does. */
  trust(): string | undefined;
  /** Asks an agent whose session is served here to open a tunnel; false: it has none here, or not yet (W4). */
  ask(agentId: string, tunnel: { tunnelId: string; purpose: string }): boolean;
  /** The session that an agent's call belongs to, as its access token says. Throws what is wrong with it. */
  called(context: HandlerContext): Promise<{ agentId: string; sessionId: string; epoch: number }>;
  /** Those of these principals that may not call any more. */
  shutOut(principalIds: readonly string[]): Promise<ReadonlySet<string>>;
}

export interface Tunnels {
  register(router: ConnectRouter): void;
  /** Throws AGENT_OFFLINE, TUNNEL_LIMIT, TUNNEL_TIMEOUT. The caller closes it. */
  open(wish: TunnelWish & { agent: string }, signal: AbortSignal): Promise<Tunnel>;
  /** Another replica says that agents of this one are to open these. */
  heard(tunnelIds: readonly string[]): void;
  run(signal: AbortSignal): Promise<void>;
}

/** A wish is said again: words may be lost, and sessions move (W2). */
const askAgainMs = 2_000;
const lookAgainMs = 250;
/** From the agent's call to its first message. */
const firstWithinMs = 10_000;
/** W3. */
const lookEveryMs = 5_000;

interface Waiting {
  agentId: string;
  arrived: (call: Arrived) => AsyncIterable<TunnelResponse>;
}

/** Which tunnel a call is of, and of whom. */
interface Asked {
  tunnelId: string;
  agentId: string;
  /** Another replica carries it here. */
  relayed: boolean;
}

export function createTunnels(ports: TunnelPorts): Tunnels {
  const { db, clock, replicaId } = ports;
  const waiting = new Map<string, Waiting>();
  const open = new Map<Tunnel, TunnelWish>();
  /** Over, but their rows are still there: they would count for a limit. */
  const left = new Set<string>();

  async function expect(id: string, { agentId, agent, purpose }: TunnelWish & { agent: string }, signal: AbortSignal) {
    const came = new AbortController();
    let found: Tunnel | undefined;
    waiting.set(id, {
      agentId,
      arrived(call) {
        const { tunnel, answers } = openTunnel(id, call, clock);
        waiting.delete(id);
        found = tunnel;
        came.abort();
        return answers;
      },
    });
    const wake = AbortSignal.any([came.signal, signal]);
    const giveUpAt = clock.monotonicMs() + tunnelOpenWithinMs;
    try {
      while (!wake.aborted && clock.monotonicMs() < giveUpAt) {
        const holder = await holderOf(db, agentId);
        if (holder === undefined)
          throw problem("AGENT_OFFLINE", `The agent ${agent} is offline.`, { metadata: { agent } });
        if (holder === "returning") {
          await clock.sleep(lookAgainMs, wake); // W4
          continue;
        }
        if (!ports.ask(agentId, { tunnelId: id, purpose })) ports.words.send(holder.replicaId, { tunnels: [id] });
        await clock.sleep(askAgainMs, wake);
      }
    } finally {
      waiting.delete(id);
    }
    if (found === undefined)
      throw problem(
        "TUNNEL_TIMEOUT",
        `The agent ${agent} did not open the tunnel within ${tunnelOpenWithinMs / 1000} s.`,
      );
    return found;
  }

  function forget(id: string): void {
    removeTunnel(db, id).catch((error: unknown) => {
      left.add(id);
      ports.log.warn({ error, tunnel: id }, "a tunnel's row is left; it is removed later");
    });
  }

  /** W3. */
  async function endLost(): Promise<void> {
    const wishes = [...open.values()];
    const agents = new Set(wishes.map(({ agentId }) => agentId));
    const allowed = await enrolled(db, [...agents]);
    const out = await ports.shutOut([...new Set(wishes.map(({ principalId }) => principalId))]);
    for (const [tunnel, { agentId, principalId }] of open) {
      if (out.has(principalId)) tunnel.fail(problem("UNAUTHENTICATED", "The API token is not valid any more."));
      else if (agents.has(agentId) && !allowed.has(agentId))
        // one that came meanwhile was not asked for
        tunnel.fail(problem("TUNNEL_LOST", "The agent may not be here any more."));
    }
  }

  /** What an agent, or the replica that it dialled, is answered. */
  async function* serve(
    requests: AsyncIterable<TunnelRequest>,
    context: HandlerContext,
  ): AsyncGenerator<TunnelResponse> {
    const rest = requests[Symbol.asyncIterator]();
    const call: Arrived = { rest, signal: context.signal, hangUp: context.values.get(hangUpKey) };
    const bearer = bearerOf(context);
    const relayed = isRelayed(bearer);
    const dialled = relayed ? undefined : await dialler(context); // before anything that it says is looked at
    const tunnelId = await firstOf(rest, clock);
    const agentId = dialled ?? relayedAgent(ports.encryption, tunnelId, bearer);
    const arrived = arrivedHere(tunnelId, agentId);
    if (arrived !== undefined) return yield* arrived(call);
    yield* relay(await homeOf({ tunnelId, agentId, relayed }), tunnelId, call);
  }

  function arrivedHere(tunnelId: string, agentId: string): Waiting["arrived"] | undefined {
    const wanted = waiting.get(tunnelId);
    return wanted?.agentId === agentId ? wanted.arrived : undefined;
  }

  /** Where it is waited for. Throws TUNNEL_UNKNOWN. */
  async function homeOf({ tunnelId, agentId, relayed }: Asked): Promise<Home> {
    if (relayed) throw problem("TUNNEL_UNKNOWN"); // Y2
    const [row] = await readTunnels(db, [tunnelId]);
    if (row?.agent_id !== agentId || row.replica_id === replicaId) throw problem("TUNNEL_UNKNOWN");
    return {
      url: row.home_url,
      credential: relayCredential(ports.encryption, tunnelId, agentId),
      ca: ports.trust(),
    };
  }

  async function caller(context: HandlerContext, tunnelId: string): Promise<Omit<Asked, "tunnelId">> {
    const bearer = bearerOf(context);
    const relayed = isRelayed(bearer);
    const agentId = relayed ? relayedAgent(ports.encryption, tunnelId, bearer) : await dialler(context);
    return { agentId, relayed };
  }

  async function dialler(context: HandlerContext): Promise<string> {
    const claims = await ports.called(context);
    if (!(await stands(db, claims))) throw problem("SESSION_EXPIRED");
    return claims.agentId;
  }

  async function askHere(tunnelIds: readonly string[]): Promise<void> {
    for (const { id, agent_id: agentId, purpose } of await readTunnels(db, tunnelIds))
      ports.ask(agentId, { tunnelId: id, purpose });
  }

  return {
    register(router) {
      router.service(TunnelService, { tunnel: serve }, { readMaxBytes: maxStreamMessageBytes });
      registerPolledTunnels(router, {
        ...{ clock, caller, arrived: arrivedHere },
        relay: async (asked, ask, signal) => relayRequest(await homeOf(asked), ask, signal),
      });
    },
    async open(wish, signal) {
      const id = newId("tunnel");
      await addTunnel(db, id, wish, { replicaId, url: ports.homeUrl() });
      let tunnel: Tunnel;
      try {
        tunnel = await expect(id, wish, signal);
      } catch (error) {
        forget(id);
        throw error;
      }
      open.set(tunnel, wish);
      const close = (): void => {
        if (open.delete(tunnel)) forget(id);
      };
      return {
        ...tunnel,
        close() {
          tunnel.close();
          close();
        },
      };
    },
    heard(tunnelIds) {
      askHere(tunnelIds).catch((error: unknown) =>
        ports.log.warn({ error }, "a wish for tunnels could not be read; it is said again"),
      );
    },
    async run(signal) {
      while (!signal.aborted) {
        await clock.sleep(lookEveryMs, signal);
        if (signal.aborted) return;
        try {
          await endLost();
          await removeLeft(db, replicaId);
          for (const id of left) {
            await removeTunnel(db, id);
            left.delete(id);
          }
        } catch (error) {
          if (!signal.aborted) ports.log.warn({ error }, "tunnels were not looked after; tried again");
        }
      }
    },
  };
}

function bearerOf({ requestHeader }: Pick<HandlerContext, "requestHeader">): string {
  return (requestHeader.get("authorization") ?? "").replace(/^bearer /i, "");
}

/** The tunnel that the first message names. Throws PROTOCOL_VIOLATION. */
async function firstOf(rest: AsyncIterator<TunnelRequest>, clock: Clock): Promise<string> {
  const came = new AbortController();
  const first = await Promise.race([rest.next(), clock.sleep(firstWithinMs, came.signal)]).finally(() => came.abort());
  const frame = first === undefined || first.done === true ? undefined : first.value.frame;
  if (frame?.case !== "opened") throw problem("PROTOCOL_VIOLATION", "The first message of a tunnel is `opened`.");
  return frame.value.tunnelId;
}
