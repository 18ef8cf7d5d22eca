/** An agent's calls over the simulated network, as its real code makes them: one stream, and unary fetches. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import {
  type AgentMessage,
  type FetchDeploymentsRequest,
  FetchDeploymentsResponseSchema,
  type ServerMessage,
} from "@bowline/contract/agent";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import type { serve } from "@bowline/agent-core";
import { type End, type Frame, Link, type Network } from "./network.ts";
import type { Process } from "./world.ts";

type FetchAnswer = Parameters<typeof create<typeof FetchDeploymentsResponseSchema>>[1];
type StreamTransport = Extract<Parameters<typeof serve>[1], { kind: "stream" }>;
export type AgentLink = Link<AgentMessage, ServerMessage>;

/** The replica that a dial comes to. */
export interface Dialled {
  process: Process;
  /** Takes a stream whose bearer says who dials. Returns where its frames go. */
  accept(bearer: string, link: () => AgentLink): End<AgentMessage>;
  /** Rejects with a ConnectError. */
  fetch(bearer: string, items: FetchDeploymentsRequest["items"]): Promise<FetchAnswer>;
}

/** What a call ends with that never was answered. */
const dialWithinMs = 10_000;
const callWithinMs = 30_000;

/** A reason as a server gives it. */
export function refusal(reason: string, code: Code, metadata: Record<string, string> = {}): ConnectError {
  return new ConnectError(reason, code, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: "bowline", metadata } },
  ]);
}

export function transportOf(
  agent: { id: string; process: Process },
  network: Network,
  choose: () => Dialled | undefined,
): StreamTransport {
  const { id, process } = agent;
  const dialled = choose();

  /** Rejects where nobody answers. */
  async function reach(): Promise<Dialled> {
    await process.wait(network.latency(id));
    if (network.unreached.has(id)) await process.wait(dialWithinMs);
    if (dialled?.process.alive !== true || network.unreached.has(id))
      throw new ConnectError("nobody answers", Code.Unavailable);
    return dialled;
  }

  const stream: Transport["stream"] = async (method, signal, _timeout, header, input) => {
    const server = await reach();
    const inbox = createInbox<ServerMessage>();
    let link: AgentLink | undefined;
    const end = server.accept(bearerOf(header), () => link as AgentLink);
    link = new Link(network, id, end, { process, deliver: inbox.put });
    const open = link;
    const cut = (): void => {
      inbox.put({ end: true, error: new ConnectError("canceled", Code.Canceled) });
      open.cut();
    };
    if (signal?.aborted === true) cut();
    signal?.addEventListener("abort", cut, { once: true });
    void pump(input as AsyncIterable<AgentMessage>, open);
    const plain = { header: new Headers(), trailer: new Headers() };
    return { stream: true, service: method.parent, method, ...plain, message: inbox.messages() as never };
  };

  const unary: Transport["unary"] = async (method, _signal, _timeout, header, input) => {
    const server = await reach();
    if (network.mute.has(id)) {
      await process.wait(callWithinMs);
      throw new ConnectError("no answer", Code.DeadlineExceeded);
    }
    const { items } = input as FetchDeploymentsRequest;
    const answer = await new Promise<FetchAnswer>((resolve, reject) => {
      const back = (work: () => void): void => process.after(network.latency(id), work);
      const forget = server.process.atDeath(() =>
        back(() => reject(new ConnectError("the server is gone", Code.Unavailable))),
      );
      server.process.after(network.latency(id), () => {
        void server
          .fetch(bearerOf(header), items)
          .then(
            (value) => back(() => resolve(value)),
            (error: unknown) => back(() => reject(ConnectError.from(error))),
          )
          .finally(forget);
      });
    });
    const plain = { header: new Headers(), trailer: new Headers() };
    const message = create(FetchDeploymentsResponseSchema, answer);
    return { stream: false, service: method.parent, method, ...plain, message: message as never };
  };

  return { kind: "stream", stream: { stream, unary }, unary: { stream, unary }, close: () => undefined };
}

async function pump(input: AsyncIterable<AgentMessage>, link: AgentLink): Promise<void> {
  try {
    for await (const message of input) link.sendUp({ message });
    link.sendUp({ end: true });
  } catch {
    link.cut(); // the agent's end has said why to itself
  }
}

function bearerOf(header: ConstructorParameters<typeof Headers>[0]): string {
  return (new Headers(header).get("authorization") ?? "").slice("Bearer ".length);
}

/** What has come and was not read yet. */
export function createInbox<Message>() {
  const frames: Frame<Message>[] = [];
  let wake: (() => void) | undefined;
  return {
    put: (frame: Frame<Message>): void => {
      frames.push(frame);
      wake?.();
    },
    async *messages(): AsyncGenerator<Message> {
      for (;;) {
        const frame = frames.shift();
        if (frame === undefined) await new Promise<void>((resolve) => (wake = resolve));
        else if ("message" in frame) yield frame.message;
        else if (frame.error !== undefined) throw frame.error;
        else return;
      }
    },
  };
}
