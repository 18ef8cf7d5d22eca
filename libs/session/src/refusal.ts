/** What a peer's error says, once, in the words of the kernel. */
import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";

export interface Refusal {
  /**
   * Stable reason, e.g. REGISTRATION_TOKEN_USED. Where the peer was not reached, the dial's (TLS_UNTRUSTED); where it
   * gave none, the Connect code's name in upper case.
   */
  reason: string;
  code: Code;
  /** For people. */
  message: string;
  /** How long to wait before the same may succeed, where the peer said so. */
  retryAfterMs: number | undefined;
  /** Facts for programs. */
  metadata: Readonly<Record<string, string>>;
}

/** Reads any error of a call; what is not a ConnectError (a socket's, say) is UNAVAILABLE or what Connect makes of it. */
export function refusalOf(error: unknown): Refusal {
  const found = ConnectError.from(error);
  const [info] = found.findDetails(ErrorInfoSchema);
  const [retry] = found.findDetails(RetryInfoSchema);
  const delay = retry?.retryDelay;
  return {
    reason: info?.reason ?? reasonOf(found.cause) ?? nameOf(found.code),
    code: found.code,
    message: found.rawMessage,
    retryAfterMs: delay === undefined ? undefined : durationMs(delay),
    metadata: info?.metadata ?? {},
  };
}

/** What a dial rejects with says its reason itself. */
function reasonOf(cause: unknown): string | undefined {
  const reason = cause instanceof Error && "reason" in cause ? cause.reason : undefined;
  return typeof reason === "string" ? reason : undefined;
}

function nameOf(code: Code): string {
  return (Code[code] ?? "Unknown").replaceAll(/(?<=[a-z])[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
}
