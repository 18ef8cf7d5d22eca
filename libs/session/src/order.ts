/**
 * The order of frames on an agent's stream; nothing else checks it.
 *
 * F1: the greeting (ConnectRequest up, ConnectResponse down) comes first, and once.
 * F2: Sync pages and their replies follow, up to the one that says `last`; what
 *     is about commands comes after that.
 * F3: heartbeats, tokens and the words that end a session may come any time
 *     after the greeting.
 * F4: after Goodbye comes nothing.
 *
 * A message without a known case comes from a newer peer, and is let through
 * (never as the first).
 */
import type { AgentMessage, ServerMessage } from "@bowline/contract/agent";

/** Says undefined where the message may come now, else what is wrong with it. */
export type OrderCheck<M> = (message: M) => string | undefined;

type Phase = "greeting" | "syncing" | "serving" | "ended";

/** Messages up. One checker per stream. */
export function orderOfAgentMessages(): OrderCheck<AgentMessage> {
  let phase: Phase = "greeting";
  return ({ message }) => {
    if (phase === "ended") return `${name(message.case)} came after goodbye`;
    if (phase === "greeting") {
      if (message.case !== "connectRequest") return `connect_request comes first, not ${name(message.case)}`;
      phase = "syncing";
      return undefined;
    }
    switch (message.case) {
      case "connectRequest":
        return "connect_request comes once";
      case "sync":
        if (phase === "serving") return "sync came after its last page";
        if (message.value.last) phase = "serving";
        return undefined;
      case "commandReceipt":
      case "commandProgress":
      case "deployResult":
      case "stateReport":
        return phase === "serving" ? undefined : `${name(message.case)} came before the last page of sync`;
      case "goodbye":
        phase = "ended";
        return undefined;
      case "heartbeat":
      case "tokenRequest":
      case undefined:
        return undefined;
      default:
        return message satisfies never;
    }
  };
}

/** Messages down. One checker per stream. */
export function orderOfServerMessages(): OrderCheck<ServerMessage> {
  let phase: Phase = "greeting";
  return ({ message }) => {
    if (phase === "greeting") {
      if (message.case !== "connectResponse") return `connect_response comes first, not ${name(message.case)}`;
      phase = "syncing";
      return undefined;
    }
    switch (message.case) {
      case "connectResponse":
        return "connect_response comes once";
      case "syncReply":
        if (phase === "serving") return "sync_reply came after the last one";
        if (message.value.last) phase = "serving";
        return undefined;
      case "deployCommand":
      case "cancelCommand":
      case "openTunnel":
        return phase === "serving" ? undefined : `${name(message.case)} came before the last sync_reply`;
      case "resultAck":
      case "heartbeatAck":
      case "sessionToken":
      case "credentialsChanged":
      case "drain":
      case "superseded":
      case "messageRefused":
      case undefined:
        return undefined;
      default:
        return message satisfies never;
    }
  };
}

/** As the proto spells it. */
function name(messageCase: string | undefined): string {
  if (messageCase === undefined) return "a message of no known kind";
  return messageCase.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
