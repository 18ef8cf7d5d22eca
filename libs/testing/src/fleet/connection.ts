/**
 * One agent's connection in little memory: node:http2 with Connect's protocol
 * framed here, instead of a general client per agent.
 *
 *   gate.ts  where it goes half-open
 *
 * C1: what the server sends is read as the protocol says it: envelopes split
 *     and joined anywhere, an end with the server's error.
 * C2: a server that takes nothing is not written to without end.
 */
import {
  constants,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  type IncomingHttpHeaders,
} from "node:http2";
import type { Socket } from "node:net";
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { codeFromHttpStatus, endStreamFromJson, errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { AgentMessageSchema, type ServerMessage, ServerMessageSchema } from "@bowline/contract/agent";
import { type DialTarget, dialSocket } from "@bowline/dial";
import { maxQueuedMessages, maxUnaryMessageBytes } from "@bowline/session";
import { Gate } from "./gate.ts";

export type Said = MessageInitShape<typeof AgentMessageSchema>["message"];

export interface StreamEvents {
  heard(message: ServerMessage): void;
  /** Once. Undefined: the server ended it in order. */
  ended(error: ConnectError | undefined): void;
}

export interface AgentStream {
  send(message: Said): void;
  /** What was said still goes out. */
  finish(): void;
  /** Reads nothing any more, and lets the server send nothing: it has no window left. */
  stopReading(): void;
}

export interface AgentConnection {
  stream(authorization: string, events: StreamEvents): AgentStream;
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    authorization?: string,
  ): Promise<MessageShape<O>>;
  /** Undefined: no answer came yet to the last one. */
  ping(answered: () => void): void;
  /** Only where it was dialled with a gate. */
  goHalfOpen(): void;
  /** Cuts it, as a network does. */
  cut(): void;
}

const streamPath = "/bowline.agent.v1.AgentService/Connect";
const unaryWithinMs = 30_000;
const envelopeBytes = 5;
const endStreamFlag = 0b10;

/** `kept`: the connection can go half-open, and stays in there then. */
export async function dialAgent(
  target: DialTarget,
  { signal, kept }: { signal?: AbortSignal; kept?: Set<Socket> } = {},
): Promise<AgentConnection> {
  const socket = await dialSocket(target, { protocol: "h2", signal });
  const gate = kept === undefined ? undefined : new Gate(socket, kept);
  const session = connect(new URL(target.url).origin, { createConnection: () => gate ?? socket });
  session.on("error", () => undefined); // its streams fail with it, and their callers hear of it
  return connectionOver(session, gate);
}

function connectionOver(session: ClientHttp2Session, gate: Gate | undefined): AgentConnection {
  return {
    stream: (authorization, events) => openStream(session, authorization, events),
    call: (method, request, authorization) => callUnary(session, method, request, authorization),
    ping(answered) {
      if (session.destroyed || session.closed) return;
      session.ping((error) => error === null && answered());
    },
    goHalfOpen: () => gate?.shut(),
    cut: () => session.destroy(undefined, constants.NGHTTP2_CANCEL),
  };
}

function openStream(session: ClientHttp2Session, authorization: string, events: StreamEvents): AgentStream {
  const stream = session.request({
    ":method": "POST",
    ":path": streamPath,
    "content-type": "application/connect+proto",
    "connect-protocol-version": "1",
    ...(authorization === "" ? {} : { authorization }),
  });
  let status = 0;
  let rest: Buffer = Buffer.alloc(0);
  let over = false;
  const end = (error: ConnectError | undefined): void => {
    if (over) return;
    over = true;
    events.ended(error);
  };
  stream.on("response", (headers: IncomingHttpHeaders) => {
    status = Number(headers[":status"] ?? 0);
    readAll(); // over a gate, data can come before the head
  });
  stream.on("data", (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    readAll();
  });
  function readAll(): void {
    while (status === 200 && !over && rest.length >= envelopeBytes) {
      const whole = envelopeBytes + rest.readUInt32BE(1);
      if (rest.length < whole) return;
      const payload = rest.subarray(envelopeBytes, whole);
      const flags = rest[0] ?? 0;
      rest = rest.subarray(whole); // C1
      if ((flags & endStreamFlag) === 0) events.heard(fromBinary(ServerMessageSchema, payload));
      else end(endStreamFromJson(payload).error);
    }
  }
  stream.on("error", () => undefined); // "close" follows
  stream.once("end", () => {
    if (status !== 200) end(refused(status, rest));
  });
  stream.once("close", () => end(new ConnectError(`the stream was cut (${stream.rstCode})`, Code.Unavailable)));
  let sent = 0;
  return {
    send(message) {
      if (stream.destroyed || stream.writableEnded) return;
      const payload = toBinary(AgentMessageSchema, create(AgentMessageSchema, { message }));
      const frame = Buffer.allocUnsafe(envelopeBytes + payload.length);
      frame[0] = 0;
      frame.writeUInt32BE(payload.length, 1);
      frame.set(payload, envelopeBytes);
      sent += 1;
      stream.write(frame, () => (sent -= 1));
      if (sent > maxQueuedMessages) stream.close(constants.NGHTTP2_CANCEL); // C2
    },
    finish: () => void stream.end(),
    stopReading() {
      session.settings({ initialWindowSize: 0 });
      stream.pause();
    },
  };
}

async function callUnary<I extends DescMessage, O extends DescMessage>(
  session: ClientHttp2Session,
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
  authorization = "",
): Promise<MessageShape<O>> {
  const stream = session.request({
    ":method": "POST",
    ":path": `/${method.parent.typeName}/${method.name}`,
    "content-type": "application/proto",
    "connect-protocol-version": "1",
    ...(authorization === "" ? {} : { authorization }),
  });
  stream.end(toBinary(method.input, create(method.input, request)));
  const { status, body } = await answerTo(stream);
  if (status !== 200) throw refused(status, body);
  return fromBinary(method.output, body);
}

function answerTo(stream: ClientHttp2Stream): Promise<{ status: number; body: Buffer }> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let status = 0;
    let bytes = 0;
    stream.setTimeout(unaryWithinMs, () => stream.close(constants.NGHTTP2_CANCEL));
    stream.on("response", (headers: IncomingHttpHeaders) => (status = Number(headers[":status"] ?? 0)));
    stream.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > maxUnaryMessageBytes) stream.close(constants.NGHTTP2_CANCEL);
    });
    stream.once("end", () => resolve({ status, body: Buffer.concat(chunks) }));
    stream.on("error", () => undefined); // "close" follows
    stream.once("close", () => reject(new ConnectError("the call was cut", Code.Unavailable)));
  });
}

/** A refusal in Connect's JSON; what is none comes from something between. */
function refused(status: number, body: Buffer): ConnectError {
  const fallback = new ConnectError(`HTTP ${status}`, codeFromHttpStatus(status));
  try {
    return errorFromJsonBytes(body, undefined, fallback);
  } catch (error) {
    return ConnectError.from(error);
  }
}
