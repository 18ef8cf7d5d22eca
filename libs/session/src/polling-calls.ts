/** One message up as one request of PollingService, and what its failure means for the session. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type CallOptions, type Client, Code } from "@connectrpc/connect";
import { type AgentMessage, type PollingService, type ServerMessageSchema, type Sync } from "@bowline/contract/agent";
import { isReason } from "@bowline/kernel";
import { refusalOf } from "./refusal.ts";

/** What the server answers, as it would say it down a stream. */
export type Answers = MessageInitShape<typeof ServerMessageSchema>["message"][];

/** Sends one message. `pages` are those of the Sync that its last page ends. */
export async function ask(
  client: Client<typeof PollingService>,
  message: AgentMessage["message"],
  pages: Sync[],
  options: CallOptions,
): Promise<Answers> {
  switch (message.case) {
    case "connectRequest":
      return [{ case: "connectResponse", value: await client.openSession(message.value, options) }];
    case "sync":
      return [{ case: "syncReply", value: await client.sendSync({ pages }, options) }];
    case "heartbeat":
      return [{ case: "heartbeatAck", value: await client.sendHeartbeat(message.value, options) }];
    case "tokenRequest":
      return [{ case: "sessionToken", value: await client.renewSession({}, options) }];
    case "deployResult": {
      const { acks } = await client.sendResults({ results: [message.value] }, options);
      return acks.map((value) => ({ case: "resultAck", value }));
    }
    case "commandReceipt":
      await client.sendReceipts({ receipts: [message.value] }, options);
      return [];
    case "commandProgress":
      await client.sendProgress({ progress: [message.value] }, options);
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
