/**
 * A client of few instructions: HTTP/2 and the framing of Connect and gRPC by
 * hand, so that on a small machine the load takes little of what the server
 * needs. It speaks what a stock client speaks.
 */
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream, constants } from "node:http2";
import type { ConnectionOptions } from "node:tls";

export type Protocol = "connect" | "grpc";

/** Connect's last frame carries the end of the stream; gRPC says it in trailers. */
const endFlag = 0b10;
const prefixBytes = 5;

export interface Dial {
  url: string;
  /** The CA that the server's certificate is checked with. */
  ca?: string | undefined;
  /** This machine's end: one loopback address has 28,000 ports. */
  localAddress?: string | undefined;
}

/** A connection of its own. Rejects where it does not come about. */
export function dial({ url, ca, localAddress }: Dial): Promise<ClientHttp2Session> {
  return new Promise((resolve, reject) => {
    const tls: ConnectionOptions = ca === undefined ? {} : { ca };
    const session = connectHttp2(url, { ...tls, localAddress } as Parameters<typeof connectHttp2>[1]);
    session.once("error", reject);
    session.once("connect", () => {
      session.off("error", reject);
      session.on("error", () => undefined); // its streams tell
      resolve(session);
    });
  });
}

export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(prefixBytes + message.byteLength);
  frame[0] = 0;
  frame.writeUInt32BE(message.byteLength, 1);
  frame.set(message, prefixBytes);
  return frame;
}

/** Splits what comes into messages, wherever the network cut it. */
export function unframed(each: (message: Uint8Array, flags: number) => void): (chunk: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (bytes.length - at >= prefixBytes) {
      const end = at + prefixBytes + bytes.readUInt32BE(at + 1);
      if (end > bytes.length) break;
      each(bytes.subarray(at + prefixBytes, end), bytes[at] ?? 0);
      at = end;
    }
    rest = bytes.subarray(at);
  };
}

export interface Duplex {
  send(message: Uint8Array): void;
  /** Ends this side in order. */
  finish(): void;
  /** Resolves with what the other side said last: "" in order, else why. */
  ended: Promise<string>;
}

/** A stream both ways. `heard` gets each message. */
export function openDuplex(
  session: ClientHttp2Session,
  path: string,
  { authorization, protocol }: { authorization: string; protocol: Protocol },
  heard: (message: Uint8Array) => void,
): Duplex {
  const type =
    protocol === "grpc"
      ? { "content-type": "application/grpc+proto", te: "trailers" }
      : connectHeaders("connect+proto");
  const stream = session.request({ ":method": "POST", ":path": path, ...type, authorization }, { endStream: false });
  let last = "";
  stream.on("response", (headers) => {
    if (headers[":status"] !== 200) last = `status ${String(headers[":status"])}`;
    else if ((headers["grpc-status"] ?? "0") !== "0") last = String(headers["grpc-message"] ?? headers["grpc-status"]);
  });
  stream.on("trailers", (headers) => {
    if ((headers["grpc-status"] ?? "0") !== "0") last = String(headers["grpc-message"] ?? headers["grpc-status"]);
  });
  stream.on(
    "data",
    unframed((message, flags) => {
      if ((flags & endFlag) === 0) return heard(message);
      const end = JSON.parse(Buffer.from(message).toString("utf8")) as { error?: { message?: string } };
      if (end.error !== undefined) last = end.error.message ?? "an error";
    }),
  );
  return {
    send: (message) => void stream.write(framed(message)),
    finish: () => void stream.end(),
    ended: closed(stream, () => last),
  };
}

function closed(stream: ClientHttp2Stream, last: () => string): Promise<string> {
  return new Promise((resolve) => {
    let failed = "";
    stream.on("error", (error) => (failed = error.message));
    stream.once("close", () => resolve(last() === "" ? failed : last()));
  });
}

function connectHeaders(format: string) {
  return { "content-type": `application/${format}`, "connect-protocol-version": "1" };
}

/** A unary call of the Connect protocol: bytes in, bytes out. Rejects with what the server says where it refuses. */
export function callUnary(
  session: ClientHttp2Session,
  path: string,
  authorization: string,
  message: Uint8Array,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ...{ ":method": "POST", ":path": path, authorization },
      ...connectHeaders("proto"),
    });
    const chunks: Buffer[] = [];
    let status = 0;
    stream.on("response", (headers) => (status = Number(headers[":status"])));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.once("close", () => {
      const body = Buffer.concat(chunks);
      if (status === 200) resolve(body);
      else reject(new Error(`${path}: ${status} ${body.toString("utf8")}`));
    });
    stream.end(message);
  });
}

/** Cuts the connection, as a process that is killed does. */
export function cut(session: ClientHttp2Session): void {
  session.destroy(undefined, constants.NGHTTP2_CANCEL);
}
