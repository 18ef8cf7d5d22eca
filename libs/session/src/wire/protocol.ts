/** Which of the protocols a request speaks, by its headers. What is none of these is for a general handler. */
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";

export interface Protocol {
  /** `unary`: Connect's calls without envelopes. */
  kind: "grpc" | "connect" | "unary";
  /** protobuf's binary format; else its JSON. */
  binary: boolean;
  /** Of the answer. */
  contentType: string;
  /** The header that names how messages of the request are compressed. */
  encoding: string;
  /** The header that says which compressions are understood. */
  acceptEncoding: string;
  /** The header with the time that the caller waits. */
  timeout: string;
}

const headers = {
  grpc: { encoding: "grpc-encoding", acceptEncoding: "grpc-accept-encoding", timeout: "grpc-timeout" },
  connect: {
    encoding: "connect-content-encoding",
    acceptEncoding: "connect-accept-encoding",
    timeout: "connect-timeout-ms",
  },
  unary: { encoding: "content-encoding", acceptEncoding: "accept-encoding", timeout: "connect-timeout-ms" },
} as const;

const jsonOf = /^application\/(grpc\+|connect\+)?json(?:; ?charset=utf-?8)?$/;

/** Undefined: another protocol, or a format that it has not. */
export function protocolOf(contentType: string | undefined, streaming: boolean): Protocol | undefined {
  const given = (contentType ?? "").toLowerCase();
  switch (given) {
    case "application/grpc":
    case "application/grpc+proto":
      return { kind: "grpc", binary: true, contentType: "application/grpc+proto", ...headers.grpc };
    case "application/connect+proto":
      return streaming ? { kind: "connect", binary: true, contentType: given, ...headers.connect } : undefined;
    case "application/proto":
      return streaming ? undefined : { kind: "unary", binary: true, contentType: given, ...headers.unary };
  }
  const json = jsonOf.exec(given);
  if (json === null) return undefined;
  const kind = json[1] === "grpc+" ? "grpc" : json[1] === "connect+" ? "connect" : "unary";
  if (kind !== "grpc" && (kind === "connect") !== streaming) return undefined;
  return { kind, binary: false, contentType: `application/${json[1] ?? ""}json`, ...headers[kind] };
}

/** True where a request's messages are compressed. A protocol's header of that name may say `identity` too. */
export function isCompressed(request: IncomingHttpHeaders, { encoding }: Protocol): boolean {
  const named = request[encoding];
  return named !== undefined && named !== "" && named !== "identity";
}

/** What answers a compressed request, and the header that says what would be understood. */
export function refusedCompression(
  request: IncomingHttpHeaders,
  { encoding, acceptEncoding }: Protocol,
): { error: ConnectError; headers: OutgoingHttpHeaders } {
  const message = `unknown compression "${String(request[encoding])}": supported encodings are identity`;
  return { error: new ConnectError(message, Code.Unimplemented), headers: { [acceptEncoding]: "identity" } };
}
