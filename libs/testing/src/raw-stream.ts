/**
 * A call of AgentService.Connect as bytes: for what no client would send. Each
 * has a connection of its own.
 */
import { connect } from "node:http2";
import { atEnd } from "./endings.ts";

export interface RawStream {
  /** Any bytes, framed or not. */
  write(bytes: Uint8Array): void;
  /** One envelope of Connect's protocol around `payload`; `length` may lie. */
  envelope(payload: Uint8Array, length?: number): void;
  /** Ends the request's body. */
  finish(): void;
  /** Reads nothing more of the answer: flow control holds it back. */
  stopReading(): void;
  /** Cuts the connection. */
  cut(): void;
  /** Resolves with the end: HTTP status (0: none came), the answer's body, and RST_STREAM's code (0: in order). */
  ended: Promise<{ status: number; body: string; rstCode: number }>;
}

const path = "/bowline.agent.v1.AgentService/Connect";

export function openRawStream(
  url: string,
  authorization: string,
  contentType = "application/connect+proto",
): RawStream {
  const connection = connect(url);
  connection.on("error", () => undefined); // The stream's end tells.
  const stream = connection.request({ ":method": "POST", ":path": path, "content-type": contentType, authorization });
  let status = 0;
  let body = "";
  stream.on("response", (headers) => (status = headers[":status"] ?? 0));
  stream.on("data", (chunk: Buffer) => (body += chunk.toString("latin1")));
  stream.on("error", () => undefined); // "close" follows, with its code.
  const ended = new Promise<{ status: number; body: string; rstCode: number }>((resolve) => {
    const finish = (): void => {
      connection.destroy();
      resolve({ status, body, rstCode: stream.rstCode ?? 0 });
    };
    stream.once("end", finish); // The answer is whole; the request's body may stay open.
    stream.once("close", finish);
  });
  atEnd(() => connection.destroy());
  return {
    write: (bytes) => void stream.write(bytes),
    envelope(payload, length = payload.length) {
      const head = Buffer.alloc(5);
      head.writeUInt32BE(length, 1);
      stream.write(Buffer.concat([head, payload]));
    },
    finish: () => void stream.end(),
    stopReading: () => void stream.pause(),
    cut: () => connection.destroy(),
    ended,
  };
}
