/** What an error of a TLS handshake means, in words that say what to do. */
import type { X509Certificate } from "node:crypto";
import { namesOf, subjectOf } from "./certificates.ts";
import { DialError } from "./reasons.ts";
import type { DialTarget } from "./target.ts";

/** OpenSSL's words for "no authority that I know signed this". */
const untrusted = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "CERT_REJECTED",
  "CERT_REVOKED",
  "INVALID_CA",
  "INVALID_PURPOSE",
  "PATH_LENGTH_EXCEEDED",
  "CERT_CHAIN_TOO_LONG",
]);

/** What bytes that are no TLS look like to OpenSSL. */
const noTls = new Set([
  "ERR_SSL_WRONG_VERSION_NUMBER",
  "ERR_SSL_PACKET_LENGTH_TOO_LONG",
  "ERR_SSL_UNEXPECTED_MESSAGE",
  "ERR_SSL_HTTP_REQUEST",
  "EPROTO",
]);

/** `whom` is `host:port`; `certificate` what the server showed, where it came to that. */
export function tlsError(
  error: NodeJS.ErrnoException,
  whom: string,
  certificate: X509Certificate | undefined,
  how: Pick<DialTarget, "ca" | "clientCertificate">,
): DialError {
  const code = error.code ?? "";
  const fail = (reason: DialError["reason"], message: string, remedy: string): DialError =>
    new DialError("tls", reason, message, { remedy, cause: error });

  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    const names = certificate === undefined ? "another name" : namesOf(certificate);
    return fail(
      "TLS_WRONG_NAME",
      `the certificate of ${whom} is for ${names}`,
      "Use one of its names in the URL. If they are not the server's, something between opens TLS: give its CA, or have this name excepted.",
    );
  }
  if (code === "CERT_HAS_EXPIRED" || code === "CERT_NOT_YET_VALID") {
    const when = certificate === undefined ? "" : ` (${certificate.validFrom} to ${certificate.validTo})`;
    const what = code === "CERT_HAS_EXPIRED" ? "has expired" : "is not valid yet";
    return fail(
      "TLS_EXPIRED",
      `the certificate of ${whom} or one above it ${what}${when}; here it is ${new Date().toISOString()}`,
      "Renew it on the server, or set this machine's clock.",
    );
  }
  if (untrusted.has(code)) {
    const issuer = certificate === undefined ? "somebody" : `"${subjectOf(certificate.issuer)}"`;
    return fail(
      "TLS_UNTRUSTED",
      `the certificate of ${whom} was issued by ${issuer}, who is not trusted here (${code})`,
      how.ca === undefined
        ? "Give the CA with --ca-file, or its fingerprint with --ca-fingerprint."
        : "The CA that was given is not the one that issued it.",
    );
  }
  if (noTls.has(code)) {
    return fail(
      "TLS_NOT_SPOKEN",
      `${whom} speaks no TLS (${code})`,
      "Where the server speaks clear text, write http://.",
    );
  }
  if (code === "ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL") {
    return new DialError("tls", "HTTP2_UNAVAILABLE", `${whom} speaks no HTTP/2: TLS finds no protocol in common`, {
      remedy: "Something between ends TLS and speaks HTTP/1.1 only; have it pass HTTP/2 on.",
      cause: error,
    });
  }
  if (/BAD_BASE64|PEM|KEY_VALUES_MISMATCH|ASN1|DECODER/.test(code)) {
    const which = how.clientCertificate === undefined ? "CA" : "CA, client certificate or key";
    return fail(
      "TLS_FAILED",
      `the ${which} that was given cannot be used (${code})`,
      "Give PEM files that fit together.",
    );
  }
  return fail(
    "TLS_FAILED",
    `the TLS handshake with ${whom} failed: ${error.message}`,
    how.clientCertificate === undefined
      ? "Something between may cut TLS; or the server wants a client certificate."
      : "Something between may cut TLS; or the server does not take the client certificate.",
  );
}
