/**
 * From the replica where an agent's tunnel arrives to the one where somebody
 * waits for it. docs/decisions/0018 says why that way round.
 *
 * Y1: a relay's credential is sealed with the key that only replicas have, says
 *     the agent that was authenticated, and holds for one tunnel.
 * Y2: what was relayed once is never relayed again.
 */
import { create } from "@bufbuild/protobuf";
import { type CallOptions, type Client, createClient } from "@connectrpc/connect";
import { decrypt, encrypt, type EncryptionKey } from "@bowline/auth";
import {
  TunnelPollingService,
  type TunnelRequest,
  TunnelRequestSchema,
  type TunnelResponse,
  TunnelService,
} from "@bowline/contract/agent";
import { dialHttp2 } from "@bowline/dial";
import { problem, type Problem } from "@bowline/kernel";
import { createAgentTransport, refusalOf } from "@bowline/session";
import type { Arrived } from "./tunnel.ts";

/** Before the sealed part of a relay's bearer token: no JWT begins so. */
const mark = "relay.";

const contextOf = (tunnelId: string): string => `tunnels/${tunnelId}/relay`;

export function relayCredential(key: EncryptionKey, tunnelId: string, agentId: string): string {
  const sealed = encrypt(key, Buffer.from(agentId), contextOf(tunnelId));
  return `${mark}${Buffer.from(sealed).toString("base64url")}`;
}

export function isRelayed(bearer: string): boolean {
  return bearer.startsWith(mark);
}

/** The agent that the relaying replica authenticated. Throws UNAUTHENTICATED (Y1). */
export function relayedAgent(key: EncryptionKey, tunnelId: string, bearer: string): string {
  try {
    const sealed = Buffer.from(bearer.slice(mark.length), "base64url");
    return Buffer.from(decrypt([key], sealed, contextOf(tunnelId))).toString();
  } catch (error) {
    throw problem("UNAUTHENTICATED", "This is not a relay's credential for the tunnel.", { cause: error });
  }
}

/** The replica where a tunnel is waited for, and what lets this one ask there. */
export interface Home {
  url: string;
  credential: string;
  /** PEM of whom to trust there; undefined: whom the system does. */
  ca: string | undefined;
}

/** One request of a polled tunnel. Throws TUNNEL_UNREACHABLE, TUNNEL_LOST, or what the other replica says. */
export async function relayRequest<T>(
  { url, credential, ca }: Home,
  ask: (client: Client<typeof TunnelPollingService>, options: CallOptions) => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  if (url === "") throw problem("TUNNEL_UNREACHABLE");
  const transport = createAgentTransport({ url, dial: (ending) => dialHttp2({ url, ca }, { signal: ending }) });
  try {
    const client = createClient(TunnelPollingService, transport.unary);
    return await ask(client, { headers: { authorization: `Bearer ${credential}` }, signal });
  } catch (error) {
    throw relayFailure(error, url);
  } finally {
    transport.close();
  }
}

function relayFailure(error: unknown, url: string): Problem {
  const { reason, message } = refusalOf(error);
  if (reason === "TUNNEL_UNKNOWN" || reason === "UNAUTHENTICATED") return problem("TUNNEL_UNKNOWN");
  if (reason === "PROTOCOL_VIOLATION") return problem(reason, message);
  return problem("TUNNEL_LOST", `The replica at ${url} is not reached: ${message}`, { cause: error });
}

/** Carries a tunnel on until either end ends it. Throws TUNNEL_UNREACHABLE, TUNNEL_LOST, or what the other replica says. */
export async function* relay(
  home: Home,
  tunnelId: string,
  { rest, signal, hangUp }: Arrived,
): AsyncGenerator<TunnelResponse> {
  if (home.url === "") throw problem("TUNNEL_UNREACHABLE");
  const over = new AbortController();
  const transport = createAgentTransport({
    url: home.url,
    dial: (ending) => dialHttp2({ url: home.url, ca: home.ca }, { signal: ending }),
    callEnded: () => {
      if (!over.signal.aborted) hangUp(); // also an agent that reads nothing hears of it
    },
  });
  async function* up(): AsyncGenerator<TunnelRequest> {
    yield create(TunnelRequestSchema, { frame: { case: "opened", value: { tunnelId } } });
    for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
  }
  try {
    const headers = { authorization: `Bearer ${home.credential}` };
    const call = { headers, signal: AbortSignal.any([signal, over.signal]) };
    for await (const answer of createClient(TunnelService, transport.stream).tunnel(up(), call)) yield answer;
  } catch (error) {
    throw relayFailure(error, home.url);
  } finally {
    over.abort();
    transport.close();
  }
}
