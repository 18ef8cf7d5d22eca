/** How a call's end is written: gRPC's trailers, Connect's last envelope, Connect's error of a unary call. */
import type { OutgoingHttpHeaders } from "node:http2";
import { constants } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { codeToHttpStatus, createEndStreamSerialization, errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { mergeNonProtocolHeaders } from "@connectrpc/connect/protocol";

const endStream = createEndStreamSerialization(undefined);

/** What a handler threw, as it is told: only a ConnectError is meant for the caller. */
export function told(error: unknown): ConnectError {
  const found =
    error instanceof ConnectError
      ? error
      : new ConnectError("internal error", Code.Internal, undefined, undefined, error);
  // Half a surrogate pair cannot be percent-encoded.
  return Object.assign(found, { rawMessage: found.rawMessage.toWellFormed() });
}

/** `grpc-status` and what belongs to it: trailers, or headers where nothing else is answered. */
export function grpcStatus(error: ConnectError | undefined): OutgoingHttpHeaders {
  if (error === undefined) return { "grpc-status": "0" };
  const status = Object.fromEntries(setTrailerStatus(new Headers(), error));
  return { ...status, "grpc-message": percentEncoded(error.rawMessage) };
}

/** As gRPC has it: printable ASCII but `%` stays as it is, but for spaces that HTTP would trim. What encodes more is not decoded by every client. */
function percentEncoded(text: string): string {
  return text.replaceAll(/^ +| +$|[^ -$&-~]+/g, (part) => encodeURIComponent(part));
}

/** The message of the envelope that ends a Connect stream. */
export function connectEnd(error: ConnectError | undefined): Uint8Array {
  return endStream.serialize({ metadata: new Headers(), ...(error === undefined ? {} : { error }) });
}

/** A Connect call that failed. */
export function connectError(error: ConnectError): { status: number; headers: OutgoingHttpHeaders; body: Uint8Array } {
  const metadata = new Headers();
  mergeNonProtocolHeaders(metadata, error.metadata);
  const headers = { ...Object.fromEntries(metadata), "content-type": "application/json" };
  return { status: codeToHttpStatus(error.code), headers, body: errorToJsonBytes(error, undefined) };
}

/** What a caller's RST_STREAM, or the end of its connection, says. */
export function goneBy(rstCode: number | undefined): ConnectError {
  return rstCode === constants.NGHTTP2_CANCEL
    ? new ConnectError("the caller cancelled the call", Code.Canceled)
    : new ConnectError(`the caller is gone (HTTP/2 code ${rstCode ?? "none"})`, Code.Unavailable);
}
