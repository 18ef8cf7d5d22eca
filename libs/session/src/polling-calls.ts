/** Messages up as requests of PollingService, and what a failure means for the session. */
import { type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type CallOptions, type Client, Code } from "@connectrpc/connect";
import {
  type AgentMessage,
  AgentMessageSchema,
  type PollingService,
  type ServerMessageSchema,
  type Sync,
} from "@bowline/contract/agent";
import { isReason } from "@bowline/kernel";
import { refusalOf } from "./refusal.ts";

/** What the server answers, as it would say it down a stream. */
export type Answers = MessageInitShape<typeof ServerMessageSchema>["message"][];

type Said = AgentMessage["message"];
type Kind = NonNullable<Said["case"]>;
type Next = IteratorResult<AgentMessage, undefined>;

/** What one request takes many of. */
const together: ReadonlySet<Said["case"]> = new Set<Kind>(["commandReceipt", "commandProgress", "deployResult"]);
/** The contract's limit. */
const maxTogether = 64;
/** A server reads requests of 1 MiB; each message has at most 64 KiB. */
const maxTogetherBytes = 512 * 1024;

/** What waits to be said, in order: what follows one another and goes together, in one group. */
export async function* inGroups(
  said: AsyncIterable<AgentMessage> & { readonly queued: number },
): AsyncGenerator<Said[]> {
  const messages = said[Symbol.asyncIterator]();
  let next: Next = await messages.next();
  try {
    while (next.done !== true) {
      const { message } = next.value;
      const group = [message];
      let bytes = toBinary(AgentMessageSchema, next.value).byteLength;
      let ahead: Next | undefined;
      while (together.has(message.case) && group.length < maxTogether && said.queued > 0) {
        const following: Next = await messages.next();
        ahead = following;
        if (following.done === true || following.value.message.case !== message.case) break;
        bytes += toBinary(AgentMessageSchema, following.value).byteLength;
        if (bytes > maxTogetherBytes) break;
        group.push(following.value.message);
        ahead = undefined;
      }
      yield group;
      next = ahead ?? (await messages.next());
    }
  } finally {
    await messages.return?.();
  }
}

/** Sends a group. `pages` are those of the Sync that its last page ends. */
export async function ask(
  client: Client<typeof PollingService>,
  group: readonly Said[],
  pages: Sync[],
  options: CallOptions,
): Promise<Answers> {
  const all = <K extends Kind>(kind: K) =>
    group.flatMap((said) =>
      said.case === kind ? [said.value as Extract<Said, { case: K; value: object }>["value"]] : [],
    );
  const [message] = group;
  switch (message?.case) {
    case "connectRequest":
      return [{ case: "connectResponse", value: await client.openSession(message.value, options) }];
    case "sync":
      return [{ case: "syncReply", value: await client.sendSync({ pages }, options) }];
    case "heartbeat":
      return [{ case: "heartbeatAck", value: await client.sendHeartbeat(message.value, options) }];
    case "tokenRequest":
      return [{ case: "sessionToken", value: await client.renewSession({}, options) }];
    case "deployResult": {
      const { acks } = await client.sendResults({ results: all(message.case) }, options);
      return acks.map((value) => ({ case: "resultAck", value }));
    }
    case "commandReceipt":
      await client.sendReceipts({ receipts: all(message.case) }, options);
      return [];
    case "commandProgress":
      await client.sendProgress({ progress: all(message.case) }, options);
      return [];
    case "stateReport":
      await client.sendState(message.value, options);
      return [];
    case "goodbye":
      await client.closeSession(message.value, options);
      return [];
    case undefined:
      return [];
    default:
      return message satisfies never;
  }
}

/** `again`: it may be sent again. `refused`: it never will be taken; the session goes on. `over`: the session is. */
export type Verdict = "again" | "refused" | "over";

/** A server says its reason; what says none is something between. */
export function verdictOf(error: unknown): Verdict {
  const { reason, code } = refusalOf(error);
  if (!isReason(reason)) return "again";
  switch (code) {
    case Code.InvalidArgument:
    case Code.NotFound:
    case Code.Internal:
      return reason === "PROTOCOL_VIOLATION" ? "over" : "refused";
    case Code.ResourceExhausted:
      return reason === "BODY_TOO_LARGE" ? "refused" : "again";
    case Code.Aborted:
      return reason === "POLL_OUTDATED" ? "again" : "over";
    case Code.Unavailable:
    case Code.DeadlineExceeded:
    case Code.Canceled:
    case Code.Unknown:
      return "again";
    default:
      return "over";
  }
}
