/**
 * What one message of a session does, whether it came on a stream or in a
 * request of its own. Sync and Goodbye are not here: they change the session.
 */
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { type AgentMessage, CommandReceipt_Disposition } from "@bowline/contract/agent";
import type { EnginePorts } from "../commands/index.ts";
import { problemOf } from "../platform/problems.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { Intake } from "./intake.ts";
import type { LiveSession } from "./live.ts";
import type { OpenedSession } from "./open.ts";
import type { AccessTokens } from "./signing-keys.ts";

/** What a message needs of its replica. */
export interface MessagePorts {
  engine: () => EnginePorts;
  dispatcher: Dispatcher;
  intake: Intake;
  tokens: AccessTokens;
}

/** The session that a message came on. What is answered goes to `send`. */
export type Speaker = Pick<
  LiveSession,
  "agentId" | "sessionId" | "epoch" | "takes" | "pushedRemovals" | "send" | "times"
>;

/**
 * Resolves when the next message of this session may be taken; its `settled`
 * when what this one says is committed and answered. Never rejects for what a
 * database does: the agent is told with MessageRefused.
 */
export async function take(
  ports: MessagePorts,
  session: Speaker,
  opened: Pick<OpenedSession, "incarnation">,
  message: AgentMessage["message"],
): Promise<{ settled: Promise<void> }> {
  const { agentId, epoch } = session;
  const settled = Promise.resolve();
  switch (message.case) {
    case "heartbeat":
      ports.intake.seen(agentId, message.value.capacity);
      if (session.takes !== "everything") {
        session.takes = (message.value.capacity?.placesFree ?? 0) > 0 ? "everything" : "removals";
        ports.dispatcher.wake([agentId]);
      }
      session.send({
        message: { case: "heartbeatAck", value: { number: message.value.number, serverTime: timestampNow() } },
      });
      break;
    case "commandReceipt":
      if (message.value.disposition === CommandReceipt_Disposition.NOT_NOW) {
        const removal = session.pushedRemovals.has(message.value.commandId);
        session.takes = removal || session.takes === "nothing" ? "nothing" : "removals";
        await ports.dispatcher.claimed(); // else a claim that runs now may take it again at once
      }
      session.pushedRemovals.delete(message.value.commandId);
      session.times?.receipted(message.value.commandId);
      await guarded(ports, session, message.value.commandId, () =>
        ports.intake.receipt({ agentId, epoch, message: message.value }),
      );
      break;
    case "commandProgress":
      ports.intake.progress({ agentId, epoch, message: message.value });
      break;
    case "deployResult": {
      const timed = session.times?.reported(message.value.commandId);
      const recorded = guarded(ports, session, message.value.commandId, async () => {
        const { commandId, attempt, disposition } = await ports.intake.result({
          agentId,
          epoch,
          message: message.value,
        });
        timed?.();
        session.send({ message: { case: "resultAck", value: { commandId, attempt, disposition } } });
      });
      // Not awaited: results of one agent may share a commit; their order is kept by the batch.
      return { settled: recorded };
    }
    case "stateReport":
      await guarded(ports, session, "", () => ports.intake.state({ agentId, epoch, message: message.value }));
      break;
    case "tokenRequest":
      await guarded(ports, session, "", async () => {
        const { sessionId } = session;
        const accessToken = await ports.tokens.issue({ agentId, sessionId, epoch, incarnation: opened.incarnation });
        session.send({
          message: { case: "sessionToken", value: { accessToken, accessTokenLifeMs: ports.tokens.lifeMs } },
        });
      });
      break;
    default:
      // An unknown message of a newer agent: ignored, as unknown fields are.
      break;
  }
  return { settled };
}

/** A message that could not be written costs that message: the agent is told, and repeats it. */
async function guarded(
  ports: MessagePorts,
  session: Speaker,
  commandId: string,
  body: () => Promise<void>,
): Promise<void> {
  try {
    await body();
  } catch (error) {
    const { reason } = problemOf(error);
    ports.engine().metrics?.messageRefused(reason);
    ports.engine().log.warn({ error, agentId: session.agentId, commandId }, "a message could not be recorded");
    session.send({
      message: {
        case: "messageRefused",
        value: { reason, message: "It could not be recorded; send it again.", commandId },
      },
    });
  }
}
