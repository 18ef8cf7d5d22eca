/**
 * What one message of a session does, whether it came on a stream or in a
 * request of its own. Sync and Goodbye are not here: they change the session.
 */
import { type AgentMessage, type CommandReceipt, CommandReceipt_Disposition } from "@bowline/contract/agent";
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
export interface Speaker extends Pick<
  LiveSession,
  "agentId" | "sessionId" | "epoch" | "takes" | "pushedRemovals" | "send" | "times"
> {
  /** Answers the heartbeat of that number. */
  acknowledge(number: number): void;
}

/** None of it rejects for what a database does: the agent is told with MessageRefused. */
export interface Taken {
  /** Resolves when the next message of this session may be taken; unset: it may at once. */
  next?: Promise<void>;
  /** Resolves when what this one says is committed and answered; unset: it is. */
  settled?: Promise<void>;
}

const atOnce: Taken = {};

export function take(
  ports: MessagePorts,
  session: Speaker,
  opened: Pick<OpenedSession, "incarnation">,
  message: AgentMessage["message"],
): Taken {
  const { agentId, epoch } = session;
  const waited = (next: Promise<void>): Taken => ({ next, settled: next });
  switch (message.case) {
    case "heartbeat":
      ports.intake.seen(agentId, message.value.capacity, message.value.runtimeProblem);
      if (session.takes !== "everything") {
        session.takes = (message.value.capacity?.placesFree ?? 0) > 0 ? "everything" : "removals";
        ports.dispatcher.wake([agentId]);
      }
      session.acknowledge(message.value.number);
      return atOnce;
    case "commandReceipt":
      // Not awaited, like results: the order of one agent's reports is kept by the batch.
      return { settled: receipt(ports, session, message.value) };
    case "commandProgress":
      ports.intake.progress({ agentId, epoch, message: message.value });
      return atOnce;
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
      return { settled: recorded };
    }
    case "stateReport":
      return waited(guarded(ports, session, "", () => ports.intake.state({ agentId, epoch, message: message.value })));
    case "tokenRequest":
      return waited(
        guarded(ports, session, "", async () => {
          const { sessionId } = session;
          const accessToken = await ports.tokens.issue({ agentId, sessionId, epoch, incarnation: opened.incarnation });
          session.send({
            message: { case: "sessionToken", value: { accessToken, accessTokenLifeMs: ports.tokens.lifeMs } },
          });
        }),
      );
    default:
      return atOnce; // An unknown message of a newer agent: ignored, as unknown fields are.
  }
}

async function receipt(ports: MessagePorts, session: Speaker, message: CommandReceipt): Promise<void> {
  const { agentId, epoch } = session;
  if (message.disposition === CommandReceipt_Disposition.NOT_NOW) {
    const removal = session.pushedRemovals.has(message.commandId);
    session.takes = removal || session.takes === "nothing" ? "nothing" : "removals";
    await ports.dispatcher.claimed(); // else a claim that runs now may take it again at once
  }
  session.pushedRemovals.delete(message.commandId);
  session.times?.receipted(message.commandId);
  await guarded(ports, session, message.commandId, () => ports.intake.receipt({ agentId, epoch, message }));
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
