/** What a server says that keeps nothing: enough for an agent to greet, to hold its stream, and to be heard. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type AgentMessage, type ServerMessage, ServerMessageSchema } from "@bowline/contract/agent";

export function answerTo({ message }: AgentMessage): ServerMessage | undefined {
  const said = answer(message);
  return said === undefined ? undefined : create(ServerMessageSchema, { message: said });
}

function answer(message: AgentMessage["message"]): MessageInitShape<typeof ServerMessageSchema>["message"] | undefined {
  switch (message.case) {
    case "connectRequest":
      return {
        case: "connectResponse",
        value: { sessionId: "session_bare", epoch: 1, accessToken: "bare", window: 16, heartbeatIntervalMs: 15_000 },
      };
    case "sync":
      return { case: "syncReply", value: {} };
    case "heartbeat":
      return { case: "heartbeatAck", value: { number: message.value.number } };
    default:
      return undefined;
  }
}
