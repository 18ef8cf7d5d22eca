/**
 * PollingService: the requests of agents that poll.
 *
 * P1: every request is let through by its token and its rows (poll-fence.ts).
 * P2: what goes up is answered after the commit that an acknowledgement on a
 *     stream would follow, and may be said again.
 */
import { create, toBinary, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { durationMs, timestampNow } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  type AgentMessage,
  AgentMessageSchema,
  ConnectRequestSchema,
  type GetDeploymentRequest,
  PollingService,
  type ReceiveCommandsRequest,
  type Sync,
  type SyncReplySchema,
  TokenRequestSchema,
} from "@bowline/contract/agent";
import type { AccessTokenClaims } from "@bowline/auth";
import { isReason, problem } from "@bowline/kernel";
import { maxStreamMessageBytes } from "@bowline/session";
import { type CalledBy, requestKey } from "../platform/context.ts";
import type { CertificateGuard } from "./certificates.ts";
import type { Ends } from "./ends.ts";
import { type FetchPorts, fetchDeployments, noteForeign } from "./fetch.ts";
import { type Asserted, bearer } from "./greet.ts";
import type { LiveSession, Outgoing } from "./live.ts";
import { type MessagePorts, type Speaker, take } from "./messages.ts";
import type { Misuse } from "./misuse.ts";
import type { Pace } from "./pace.ts";
import type { Ask, Asked } from "./poll-fence.ts";
import type { PlainSyncs } from "./plain-syncs.ts";
import type { Polls } from "./polls.ts";
import { storable } from "./storable.ts";
import { finishSync, maxSyncEntries } from "./sync.ts";

export interface PollRpcPorts extends MessagePorts, FetchPorts {
  plainSyncs: PlainSyncs;
  ends: Ends;
  pace: Pace;
  misuse: Misuse;
  polls: Polls;
  ask: Ask;
  certificates: CertificateGuard;
  /** Verifies the assertion of a dial, and counts it. */
  dialled(context: Pick<CalledBy, "requestHeader" | "values">): Promise<Asserted>;
  silenceLimitMs: number;
}

/** All pages of a Sync; REST takes as much. */
const maxRequestBytes = 1024 * 1024;
/** Below the 30 s after which the hastiest proxies give up a request. */
const defaultWaitMs = 25_000;
/** Of one probe of a stream. One message tells; more only watch it for a while. */
const probe = { messages: 8, withinMs: 30_000 };

export function registerPolling(router: ConnectRouter, ports: PollRpcPorts): void {
  const { ask } = ports;
  const nothing = async (taken: Promise<unknown>): Promise<object> => {
    await taken;
    return {};
  };
  router.service(
    PollingService,
    {
      async openSession(greeting, context) {
        sized(ConnectRequestSchema, greeting);
        const asserted = await ports.dialled(context);
        const request = context.values.get(requestKey);
        try {
          return await ports.polls.open(asserted, request, greeting);
        } catch (error) {
          await ports.certificates.note(asserted.agentId, request, error);
          ports.misuse.refused(asserted.agentId, error, request);
          throw error;
        }
      },
      renewSession: (_, context) =>
        ask(context, async (asked) => {
          const value = create(TokenRequestSchema);
          const [answer] = await taken(ports, asked, [{ case: "tokenRequest", value }]);
          if (answer?.case !== "sessionToken") throw problem("INTERNAL");
          return answer.value;
        }),
      closeSession: (_, context) => ask(context, ({ claims }) => closeSession(ports, claims)),
      sendSync: ({ pages }, context) => ask(context, (asked) => finish(ports, asked, pages)),
      sendHeartbeat: (value, context) =>
        ask(context, async (asked) => {
          const [answer] = await taken(ports, asked, [{ case: "heartbeat", value }]);
          if (answer?.case !== "heartbeatAck") throw problem("INTERNAL");
          return answer.value;
        }),
      receiveCommands: (request, context) => ask(context, (asked) => receive(ports, asked, request, context.signal)),
      sendReceipts: ({ receipts }, context) =>
        ask(context, (asked) =>
          nothing(
            taken(
              ports,
              asked,
              receipts.map((value) => ({ case: "commandReceipt", value })),
            ),
          ),
        ),
      sendProgress: ({ progress }, context) =>
        ask(context, (asked) =>
          nothing(
            taken(
              ports,
              asked,
              progress.map((value) => ({ case: "commandProgress", value })),
            ),
          ),
        ),
      sendState: (value, context) =>
        ask(context, (asked) => nothing(taken(ports, asked, [{ case: "stateReport", value }]))),
      sendResults: ({ results }, context) =>
        ask(
          context,
          async (asked) => {
            const answers = await taken(
              ports,
              asked,
              results.map((value) => ({ case: "deployResult", value })),
            );
            return { acks: answers.flatMap((answer) => (answer?.case === "resultAck" ? [answer.value] : [])) };
          },
          true,
        ),
      getDeployment: (request, context) => ask(context, ({ claims }) => deployment(ports, claims, request)),
      async *probeStream(requests, context) {
        const { agentId } = await ports.tokens.verify(bearer(context.requestHeader));
        ports.pace.count(agentId);
        await ports.certificates.check(agentId, context.values.get(requestKey));
        const late = AbortSignal.any([context.signal, AbortSignal.timeout(probe.withinMs)]);
        let count = 0;
        for await (const { number } of untilAborted(requests, late)) {
          yield { number };
          count += 1;
          if (count === probe.messages) return;
        }
      },
    },
    { readMaxBytes: maxRequestBytes },
  );
}

/** Takes messages in order, and resolves with their answers once all of it is committed (P2). */
async function taken(
  ports: PollRpcPorts,
  { claims, row }: Asked,
  messages: readonly AgentMessage["message"][],
): Promise<Outgoing["message"][]> {
  for (const message of messages) {
    sized(AgentMessageSchema, create(AgentMessageSchema, { message }));
    if (row.state === "SYNCING" && message.case !== "heartbeat" && message.case !== "tokenRequest") {
      throw problem("PROTOCOL_VIOLATION", "Sync comes before this.");
    }
  }
  ports.pace.count(claims.agentId, messages.length - 1); // the request itself is counted
  const answers: Outgoing["message"][] = [];
  const half = ports.polls.of(claims)?.session;
  const speaker = speakerOf(claims, half, ({ message }) => void answers.push(message));
  const settling: Promise<void>[] = [];
  for (const message of messages) {
    storable(message);
    const { next, settled } = take(ports, speaker, claims, message);
    if (settled !== undefined) settling.push(settled);
    await next;
  }
  await Promise.all(settling);
  const refused = answers.find((answer) => answer?.case === "messageRefused");
  if (refused?.case === "messageRefused") {
    const { reason = "", message } = refused.value;
    throw problem(isReason(reason) ? reason : "INTERNAL", message, { retryAfterMs: 1_000 });
  }
  return answers;
}

/** What is held back is known where the session is; elsewhere the agent's next poll tells it. */
function speakerOf(claims: AccessTokenClaims, half: LiveSession | undefined, send: Speaker["send"]): Speaker {
  const { agentId, sessionId, epoch } = claims;
  return {
    ...{ agentId, sessionId, epoch, send },
    acknowledge: (number) => send({ message: { case: "heartbeatAck", value: { number, serverTime: timestampNow() } } }),
    pushedRemovals: half?.pushedRemovals ?? new Set(),
    ...(half?.times === undefined ? {} : { times: half.times }),
    get takes() {
      return half?.takes ?? "everything";
    },
    set takes(takes) {
      if (half !== undefined) half.takes = takes;
    },
  };
}

async function receive(
  ports: PollRpcPorts,
  { claims, row }: Asked,
  request: ReceiveCommandsRequest,
  signal: AbortSignal,
) {
  const half = ports.polls.here(claims, row) ?? (await ports.polls.bring(claims, row, request.number));
  if (request.number <= half.number) {
    throw problem("POLL_OUTDATED", undefined, { metadata: { number: String(half.number) } });
  }
  half.number = request.number;
  const { session } = half;
  if (request.removalsOnly && session.takes === "everything") session.takes = "removals";
  if (!request.removalsOnly && session.takes !== "everything") {
    // The heartbeat that told places free may have reached another replica.
    session.takes = "everything";
    ports.dispatcher.wake([claims.agentId]);
  }
  const asked = request.wait === undefined ? defaultWaitMs : durationMs(request.wait);
  // Answered well within the silence limit, so that an agent that only waits is heard in time.
  const answer = await half.mailbox.after(request.cursor, Math.min(asked, ports.silenceLimitMs / 3), signal);
  half.heard();
  return answer;
}

async function finish(ports: PollRpcPorts, { claims, row }: Asked, pages: readonly Sync[]) {
  const last = pages.findIndex((page) => page.last);
  if (last !== pages.length - 1) {
    const violations = [
      { field: `pages[${pages.length - 1}].last`, description: "is true on the last page, and there only" },
    ];
    throw problem("INVALID_ARGUMENT", "The last page, and no other, says `last`.", { violations });
  }
  ports.pace.count(claims.agentId, pages.length - 1);
  const entries = pages.reduce((sum, page) => sum + page.journal.length + page.results.length, 0);
  if (entries > maxSyncEntries) throw problem("PROTOCOL_VIOLATION", "Sync lists more than a server takes.");
  const half = ports.polls.here(claims, row) ?? (await ports.polls.bring(claims, row, 0));
  if (half.number > 0) throw problem("PROTOCOL_VIOLATION", "Sync came after the first poll.");
  let reply: MessageInitShape<typeof SyncReplySchema> | undefined;
  await finishSync(ports, half.session, half.opened, storable([...pages]), (value) => (reply = value));
  if (reply === undefined) throw problem("SESSION_SUPERSEDED");
  return reply;
}

async function closeSession(ports: PollRpcPorts, claims: AccessTokenClaims): Promise<object> {
  await ports.ends.end({ agentId: claims.agentId, epoch: claims.epoch, reason: "CLOSED_CLEANLY" });
  ports.polls.of(claims)?.session.close("CLOSED_CLEANLY");
  return {};
}

async function deployment(ports: FetchPorts, claims: AccessTokenClaims, request: GetDeploymentRequest) {
  const { commandId, attempt } = request;
  const { deployments = [] } = await fetchDeployments(ports, claims, { items: [{ commandId, attempt }] });
  const [found] = deployments;
  if (found?.deploymentId !== request.deploymentId || found.generation !== request.generation) {
    await noteForeign(ports, claims.agentId, "deployments", [request.deploymentId]);
    throw problem("NOT_FOUND", "No such command is in flight for this session with that attempt.");
  }
  return found;
}

/** Throws BODY_TOO_LARGE where a stream would not have taken it. */
function sized<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): void {
  if (toBinary(schema, message).byteLength > maxStreamMessageBytes) {
    throw problem("BODY_TOO_LARGE", `A message of a session has at most ${maxStreamMessageBytes} bytes.`);
  }
}

/** Ends with the signal, also while it waits. */
async function* untilAborted<T>(messages: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const iterator = messages[Symbol.asyncIterator]();
  const aborted = new Promise<undefined>((resolve) => {
    signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
  while (!signal.aborted) {
    const next = await Promise.race([iterator.next(), aborted]);
    if (next === undefined || next.done === true) return;
    yield next.value;
  }
}
