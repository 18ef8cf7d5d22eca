/** A request as headers and bytes, and everything that came back: for what no client sends. */
import { connect, constants, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AgentMessageSchema, type ServerMessage, ServerMessageSchema } from "@bowline/contract/agent";
import { atEnd } from "@bowline/testing";

export interface RawAnswer {
  status: number;
  /** Headers and trailers together: gRPC allows either way for an answer without messages. */
  headers: Record<string, string>;
  body: Buffer;
  rstCode: number;
}

export const streamPath = "/bowline.agent.v1.AgentService/Connect";
export const unaryPath = "/bowline.agent.v1.AgentService/Examine";

export interface RawRequest {
  headers: OutgoingHttpHeaders;
  chunks?: readonly Uint8Array[];
  /** The request stays open. */
  open?: boolean;
}

export async function ask(url: string, request: RawRequest): Promise<RawAnswer> {
  const connection = connect(url);
  connection.on("error", () => undefined); // the stream's end tells
  atEnd(() => connection.destroy());
  const stream = connection.request({ ":method": "POST", ...request.headers });
  let answered: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  const body: Buffer[] = [];
  stream.on("response", (headers) => (answered = headers));
  stream.on("trailers", (headers) => (trailers = headers));
  stream.on("data", (chunk: Buffer) => body.push(chunk));
  stream.on("error", () => undefined); // "close" follows
  const closed = new Promise<void>((resolve) => stream.once("close", resolve));
  // Each chunk in a frame of its own.
  for (const chunk of request.chunks ?? []) await new Promise<void>((resolve) => stream.write(chunk, () => resolve()));
  if (request.open !== true) stream.end();
  await closed;
  connection.destroy();
  const { ":status": status, date: _, ...headers } = { ...answered, ...trailers };
  return {
    status: Number(status ?? 0),
    headers: Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [
        name,
        name === "grpc-message" ? decodeURIComponent(String(value)) : String(value),
      ]),
    ),
    body: Buffer.concat(body),
    rstCode: stream.rstCode ?? constants.NGHTTP2_NO_ERROR,
  };
}

export function bytesOf(said: { heartbeat: number } | { goodbye: string }): Uint8Array {
  const message =
    "heartbeat" in said
      ? ({ case: "heartbeat", value: { number: said.heartbeat } } as const)
      : ({ case: "goodbye", value: { reason: said.goodbye } } as const);
  return toBinary(AgentMessageSchema, create(AgentMessageSchema, { message }));
}

export function envelope(payload: Uint8Array, flags = 0, length = payload.byteLength): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, payload]);
}

/** The envelopes of an answer: numbers of heartbeats' acknowledgements, and the text of what ends a Connect stream. */
export function read(body: Buffer): (number | string)[] {
  const found: (number | string)[] = [];
  for (let at = 0; at < body.length;) {
    const length = body.readUInt32BE(at + 1);
    const data = body.subarray(at + 5, at + 5 + length);
    if (((body[at] ?? 0) & 2) !== 0) found.push(data.toString());
    else found.push(numberOf(fromBinary(ServerMessageSchema, data)));
    at += 5 + length;
  }
  return found;
}

function numberOf({ message }: ServerMessage): number {
  return message.case === "heartbeatAck" ? message.value.number : -1;
}
