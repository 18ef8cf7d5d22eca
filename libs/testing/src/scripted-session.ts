/**
 * One session of a scripted agent: what the test says up the stream, and what
 * came down. It keeps no order and no limit, so that a test can break each.
 */
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  type AgentMessage,
  AgentMessageSchema,
  AgentService,
  type CapacitySchema,
  type CommandProgressSchema,
  CommandReceipt_Disposition,
  type ConnectRequestSchema,
  type ConnectResponse,
  type DeployCommand,
  DeployResult_Outcome,
  type FetchedDeployment,
  ResultAck_Disposition,
  type ServerMessage,
  type StateReportSchema,
  type SyncReply,
  type SyncSchema,
} from "@bowline/contract/agent";
import { type Deployment, DeploymentSchema } from "@bowline/contract/deployments";
import { refusalOf } from "@bowline/session";

/** Above what a server needs to answer on a busy two-core machine, and above its second push (5 s). */
const defaultWithinMs = 30_000;

export interface SessionScript {
  /** Fields of the ConnectRequest that differ. */
  greeting?: MessageInitShape<typeof ConnectRequestSchema>;
  /** The Sync that follows the greeting; default: an empty last page. `false`: none is sent. */
  sync?: MessageInitShape<typeof SyncSchema> | false;
  /** Is told of each message as it comes, for agents that answer by themselves. */
  heard?: (message: ServerMessage) => void;
}

/** How a session ended, as the agent sees it. */
export interface ScriptedEnd {
  /** CLOSED: the server ended it in order; DROPPED: this end cut it; else the reason of the server's error. */
  reason: string;
  message: string;
}

export type Outcome =
  | { succeeded: true }
  | { failed: string; worthRetry?: boolean; message?: string }
  | { cancelled: true };

type About = Pick<DeployCommand, "commandId" | "attempt">;
type Case = Exclude<ServerMessage["message"]["case"], undefined>;
type ValueOf<Kind extends Case> = Extract<ServerMessage["message"], { case: Kind }>["value"];
type Within = { withinMs?: number };

export interface ScriptedSession {
  /** The server's greeting: session, epoch, access token, window. */
  greeting: ConnectResponse;
  /** All that came down so far, in order. */
  received: readonly ServerMessage[];
  ended: Promise<ScriptedEnd>;
  /** Sends anything, at any time. */
  send(message: MessageInitShape<typeof AgentMessageSchema>["message"]): void;
  /** The first message of that kind that matches and was not taken before; waits for it. Rejects if the session ends first. */
  next<Kind extends Case>(
    kind: Kind,
    which?: (value: ValueOf<Kind>) => boolean,
    options?: Within,
  ): Promise<ValueOf<Kind>>;
  /** Sends a page; the reply to the last one. */
  sync(page: MessageInitShape<typeof SyncSchema>): Promise<SyncReply>;
  /** The next attempt that is pushed. One that this gave before is not given again: a push without a receipt is repeated. */
  nextCommand(options?: Within & { of?: string }): Promise<DeployCommand>;
  /** FetchDeployments with the session's access token, or with another. */
  fetch(items: readonly About[], accessToken?: string): Promise<FetchedDeployment[]>;
  /** Fetches and sends the receipt, as an agent does; the spec. */
  receive(command: DeployCommand): Promise<Deployment>;
  receipt(command: About, disposition: CommandReceipt_Disposition, more?: { reason?: string; message?: string }): void;
  notNow(command: About): void;
  /** Sends a result; the disposition of its acknowledgement, e.g. RECORDED. */
  report(command: About, outcome: Outcome): Promise<keyof typeof ResultAck_Disposition>;
  progress(command: About, more: MessageInitShape<typeof CommandProgressSchema>): void;
  state(report: MessageInitShape<typeof StateReportSchema>): void;
  /** Sends a heartbeat and waits for its answer. */
  heartbeat(capacity?: MessageInitShape<typeof CapacitySchema>): Promise<void>;
  /** Asks for another access token. */
  newToken(): Promise<string>;
  /** Ends in order: Goodbye, then the end of the stream. */
  goodbye(reason?: string): Promise<ScriptedEnd>;
  /** Cuts the connection, as a network does. */
  drop(): void;
}

/** A result as it stands in a Sync page or on the stream. */
export function scriptedResult(command: About, outcome: Outcome) {
  const { commandId, attempt } = command;
  if ("succeeded" in outcome) return { commandId, attempt, outcome: DeployResult_Outcome.SUCCEEDED };
  if ("cancelled" in outcome) return { commandId, attempt, outcome: DeployResult_Outcome.CANCELLED };
  const { failed: reason, worthRetry = true, message = "as the script says" } = outcome;
  return { commandId, attempt, outcome: DeployResult_Outcome.FAILED, reason, message, worthRetry };
}

export async function openScriptedSession(
  url: string,
  authorization: string,
  connectRequest: MessageInitShape<typeof ConnectRequestSchema>,
  script: SessionScript = {},
): Promise<ScriptedSession> {
  const connection = new Http2SessionManager(url);
  const client = createClient(
    AgentService,
    createConnectTransport({ baseUrl: url, httpVersion: "2", sessionManager: connection }),
  );
  const up = createUp();
  const received: ServerMessage[] = [];
  const taken = new Set<ServerMessage>();
  const watchers = new Set<() => void>();
  let end: ScriptedEnd | undefined;
  let failure: unknown;
  let heartbeats = 0;
  /** Attempts that `nextCommand` gave. */
  const given = new Set<string>();

  const ended = (async (): Promise<ScriptedEnd> => {
    try {
      for await (const message of client.connect(up.messages, { headers: { authorization } })) {
        received.push(message);
        script.heard?.(message);
        for (const look of watchers) look();
      }
      end = { reason: "CLOSED", message: "" };
    } catch (error) {
      failure = error;
      const { reason, message } = refusalOf(error);
      end ??= { reason, message };
    }
    for (const look of watchers) look();
    up.close();
    connection.abort();
    return end;
  })();

  const next: ScriptedSession["next"] = (kind, which = () => true, { withinMs = defaultWithinMs } = {}) =>
    new Promise((resolve, reject) => {
      const settle = (then: () => void): void => {
        clearTimeout(timer);
        watchers.delete(look);
        then();
      };
      const look = (): void => {
        const found = received.find(
          (message) =>
            !taken.has(message) &&
            message.message.case === kind &&
            which(message.message.value as ValueOf<typeof kind>),
        );
        if (found !== undefined) {
          taken.add(found);
          settle(() => resolve(found.message.value as never)); // of this kind: it was just compared
        } else if (end !== undefined) {
          const { reason, message } = end;
          settle(() => reject(failure ?? new Error(`the session ended before ${kind}: ${reason} ${message}`)));
        }
      };
      const timer = setTimeout(() => {
        const came = received.map((message) => message.message.case).join(", ");
        settle(() => reject(new Error(`no ${kind} within ${withinMs} ms; what came: ${came}`)));
      }, withinMs);
      watchers.add(look);
      look();
    });
  const send: ScriptedSession["send"] = (message) => up.send(create(AgentMessageSchema, { message }));
  const fetch: ScriptedSession["fetch"] = async (items, accessToken = greeting.accessToken) => {
    const asked = items.map(({ commandId, attempt }) => ({ commandId, attempt }));
    const headers = { authorization: `Bearer ${accessToken}` };
    return (await client.fetchDeployments({ items: asked }, { headers })).deployments;
  };
  const receipt: ScriptedSession["receipt"] = ({ commandId, attempt }, disposition, more = {}) =>
    send({ case: "commandReceipt", value: { commandId, attempt, disposition, ...more } });
  const sync: ScriptedSession["sync"] = (page) => {
    send({ case: "sync", value: page });
    return next("syncReply");
  };

  send({ case: "connectRequest", value: connectRequest });
  const greeting = await next("connectResponse");
  const session: ScriptedSession = {
    ...{ greeting, received, ended, send, next, sync, fetch, receipt },
    async nextCommand({ of, ...within } = {}) {
      const isNew = ({ commandId, attempt }: About): boolean => !given.has(`${commandId} ${attempt}`);
      const command = await next(
        "deployCommand",
        (one) => isNew(one) && (of ?? one.commandId) === one.commandId,
        within,
      );
      given.add(`${command.commandId} ${command.attempt}`);
      return command;
    },
    async receive(command) {
      const [fetched] = await fetch([command]);
      if (fetched === undefined || fetched.reason !== "") throw new Error(`not fetched: ${fetched?.reason}`);
      receipt(command, CommandReceipt_Disposition.ACCEPTED);
      return fromBinary(DeploymentSchema, fetched.spec);
    },
    notNow: (command) => receipt(command, CommandReceipt_Disposition.NOT_NOW, { reason: "DISK_FULL" }),
    async report(command, outcome) {
      const { commandId, attempt } = command;
      send({ case: "deployResult", value: scriptedResult(command, outcome) });
      const ack = await next("resultAck", (value) => value.commandId === commandId && value.attempt === attempt);
      return nameOf(ack.disposition);
    },
    progress: ({ commandId, attempt }, more) =>
      send({
        case: "commandProgress",
        value: { commandId, attempt, ...more } as MessageInitShape<typeof CommandProgressSchema>,
      }),
    state: (report) => send({ case: "stateReport", value: report }),
    async heartbeat(capacity = { placesFree: 16 }) {
      const number = (heartbeats += 1);
      send({ case: "heartbeat", value: { number, capacity } });
      await next("heartbeatAck", (ack) => ack.number === number);
    },
    async newToken() {
      send({ case: "tokenRequest", value: {} });
      return (await next("sessionToken")).accessToken;
    },
    goodbye(reason = "the script ends") {
      send({ case: "goodbye", value: { reason } });
      up.close();
      return ended;
    },
    drop() {
      end ??= { reason: "DROPPED", message: "the script cut it" };
      connection.abort();
      up.close();
    },
  };
  if (script.sync !== false) await sync(script.sync ?? { last: true });
  return session;
}

function nameOf(disposition: ResultAck_Disposition): keyof typeof ResultAck_Disposition {
  const names = Object.keys(ResultAck_Disposition) as (keyof typeof ResultAck_Disposition)[];
  return names.find((name) => ResultAck_Disposition[name] === disposition) ?? "DISPOSITION_UNSPECIFIED";
}

/** What goes up: an iterable that the test feeds. */
function createUp() {
  const queue: AgentMessage[] = [];
  let closed = false;
  let wake: () => void = () => undefined;
  async function* messages(): AsyncGenerator<AgentMessage> {
    for (;;) {
      const message = queue.shift();
      if (message !== undefined) yield message;
      else if (closed) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }
  return {
    messages: messages(),
    send(message: AgentMessage): void {
      queue.push(message);
      wake();
    },
    close(): void {
      closed = true;
      wake();
    },
  };
}
