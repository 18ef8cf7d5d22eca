/**
 * The agent's end of a session without a stream: the same channel, carried by
 * PollingService. What is said goes up in requests, one after the other; what
 * the server says is polled beside them.
 *
 *   polling-calls.ts  messages as requests, and what a failure means
 *
 * W1: what was said is sent until it is answered, in order; what a network loses
 *     is sent again, and the server does nothing twice by it.
 * W2: a poll says what has come, and only that is not told again.
 * W3: nothing is polled before the end of Sync; a session whose polls are not
 *     answered is silent, also where its reports are.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import {
  type AgentMessage,
  AgentMessageSchema,
  CommandReceipt_Disposition,
  PollingService,
  type ServerMessage,
  ServerMessageSchema,
  type Sync,
} from "@bowline/contract/agent";
import { type BackoffBounds, type Clock, fullJitter, systemClock } from "@bowline/kernel";
import { createChannel } from "./channel.ts";
import { silenceLimitMs } from "./limits.ts";
import { type AgentChannel, closeGraceMs } from "./open.ts";
import { orderOfServerMessages } from "./order.ts";
import { type Answers, ask, inGroups, verdictOf } from "./polling-calls.ts";
import { refusalOf } from "./refusal.ts";

/** Waits between tries of one request. The channel's silence limit ends them. */
const retry: BackoffBounds = { floorMs: 200, baseMs: 500, capMs: 5_000 };
/** What a poll waits at the server; below the 30 s after which the hastiest proxies give up. */
const longestWaitMs = 25_000;
/** Where polls are cut sooner, they wait half as long as those lasted: down to this. */
const shortestWaitMs = 1_000;
/** After as many answers in a row they wait twice as long again: what cut them may be gone. */
const answersToTrust = 20;
/** Beyond its wait, a poll that is not answered for this long is lost. */
const pollGraceMs = 10_000;

/** Never before a server that is asked too much has said. */
function again(error: unknown, attempt: number): number {
  return Math.max(fullJitter(retry, attempt), refusalOf(error).retryAfterMs ?? 0);
}

/** Opens a session with a signed assertion. As openSession: a refusal shows in `ended`, the greeting is the caller's. */
export function openPolling(
  transport: Transport,
  options: { assertion: string; clock?: Clock; silenceMs?: number },
  signal: AbortSignal,
): AgentChannel {
  const { assertion, clock = systemClock } = options;
  const client = createClient(PollingService, transport);
  const inbox = createInbox();
  const cut = new AbortController();
  /** What ends with the channel, while what is queued still goes out. */
  const polling = new AbortController();
  let token = "";
  let removalsOnly = false;
  const pages: Sync[] = [];

  const { channel, outbox } = createChannel<AgentMessage, ServerMessage>(inbox.messages, {
    sizeOf: (message) => toBinary(AgentMessageSchema, message).byteLength,
    coalesce: ({ message }) => {
      if (message.case === "heartbeat") return "heartbeat";
      return message.case === "commandProgress" ? `progress ${message.value.commandId}` : undefined;
    },
    order: orderOfServerMessages(),
    clock,
    hangUp: () => cut.abort(),
    ...(options.silenceMs === undefined ? {} : { silenceMs: options.silenceMs }),
    stallMs: silenceLimitMs, // a request is tried again for longer than a stream's peer may stand still
  });
  const abort = (): void => {
    channel.close();
    cut.abort();
  };
  channel.signal.addEventListener("abort", () => polling.abort(), { once: true });
  cut.signal.addEventListener("abort", () => polling.abort(), { once: true });
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  const said = sayAll();
  return Object.defineProperties(channel, { released: { value: release(), enumerable: true } }) as AgentChannel;

  async function sayAll(): Promise<void> {
    for await (const group of inGroups(outbox)) {
      for (const message of group) note(message);
      const [message] = group;
      if (message?.case === "sync") {
        pages.push(message.value);
        if (!message.value.last) continue;
      }
      if (!(await say(group))) return;
      if (message?.case === "sync") void poll();
      if (message?.case === "goodbye") return;
    }
  }

  /** The server counts what is held back where the session is; elsewhere the next poll tells it. */
  function note(message: AgentMessage["message"]): void {
    if (message.case === "commandReceipt" && message.value.disposition === CommandReceipt_Disposition.NOT_NOW) {
      removalsOnly = true;
    }
    if (message.case === "heartbeat" && (message.value.capacity?.placesFree ?? 0) > 0) removalsOnly = false;
  }

  /** W1. False where the session is over. */
  async function say(group: AgentMessage["message"][]): Promise<boolean> {
    const [message] = group;
    for (let attempt = 0; !cut.signal.aborted; attempt += 1) {
      try {
        const headers = { authorization: `Bearer ${message?.case === "connectRequest" ? assertion : token}` };
        const answers: Answers = await ask(client, group, pages, { headers, signal: cut.signal });
        for (const answer of answers) heard(answer);
        return true;
      } catch (error) {
        const verdict = message?.case === "connectRequest" ? "over" : verdictOf(error);
        if (verdict === "over") {
          inbox.fail(error);
          return false;
        }
        if (verdict === "refused" && group.length > 1) return sayEach(group);
        if (verdict === "refused") {
          const { reason, message: why } = refusalOf(error);
          const commandId = message?.value !== undefined && "commandId" in message.value ? message.value.commandId : "";
          heard({ case: "messageRefused", value: { reason, message: why, commandId } });
          return true;
        }
        await clock.sleep(again(error, attempt), cut.signal);
      }
    }
    return false;
  }

  /** One of them is not taken; the others are no worse for it. */
  async function sayEach(group: AgentMessage["message"][]): Promise<boolean> {
    for (const message of group) if (!(await say([message]))) return false;
    return true;
  }

  function heard(message: Answers[number]): void {
    if (message?.case === "connectResponse" || message?.case === "sessionToken") {
      token = message.value.accessToken ?? token;
    }
    inbox.put(create(ServerMessageSchema, message === undefined ? {} : { message }));
  }

  /** W2, W3. */
  async function poll(): Promise<void> {
    let cursor = "";
    let waitMs = longestWaitMs;
    let failures = 0;
    let answers = 0;
    let answeredAt = clock.monotonicMs();
    for (let number = 1; !polling.signal.aborted; number += 1) {
      const askedAt = clock.monotonicMs();
      try {
        const headers = { authorization: `Bearer ${token}` };
        const request = { number, cursor, wait: durationFromMs(waitMs), removalsOnly };
        const timeoutMs = waitMs + pollGraceMs;
        const answer = await client.receiveCommands(request, { headers, signal: polling.signal, timeoutMs });
        ({ cursor } = answer);
        failures = 0;
        answers += 1;
        if (answers % answersToTrust === 0) waitMs = Math.min(longestWaitMs, waitMs * 2);
        answeredAt = clock.monotonicMs();
        heard(undefined); // an empty answer is a sign of life too
        for (const message of answer.messages) inbox.put(message);
      } catch (error) {
        if (polling.signal.aborted) return;
        if (verdictOf(error) === "over") return inbox.fail(error);
        if (clock.monotonicMs() - answeredAt >= silenceLimitMs) {
          return inbox.fail(
            new ConnectError("no poll was answered in time", Code.Unavailable, undefined, undefined, error),
          );
        }
        const lastedMs = Math.min(waitMs, clock.monotonicMs() - askedAt);
        // What fails at once is a server that is away, and not the wait.
        if (lastedMs >= shortestWaitMs) waitMs = Math.max(shortestWaitMs, Math.round(lastedMs / 2));
        answers = 0;
        await clock.sleep(again(error, failures), polling.signal);
        failures += 1;
      }
    }
  }

  /** In order where there is time: what is queued goes out, a Goodbye last. */
  async function release(): Promise<void> {
    await channel.ended;
    const drained = new AbortController();
    await Promise.race([said, clock.sleep(closeGraceMs, AbortSignal.any([drained.signal, cut.signal]))]);
    drained.abort();
    cut.abort();
    signal.removeEventListener("abort", abort);
  }
}

/** What comes down, for one reader. */
function createInbox() {
  const queue: ServerMessage[] = [];
  let failure: { error: unknown } | undefined;
  let wake: (() => void) | undefined;
  async function* messages(): AsyncGenerator<ServerMessage> {
    for (;;) {
      const next = queue.shift();
      if (next !== undefined) yield next;
      else if (failure !== undefined) throw failure.error;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }
  return {
    messages: messages(),
    put(message: ServerMessage): void {
      queue.push(message);
      wake?.();
    },
    /** After what came before it. */
    fail(error: unknown): void {
      failure ??= { error };
      wake?.();
    },
  };
}
