/** What a peer's certificate says, for people and for pins. */
import { createHash, type X509Certificate } from "node:crypto";

/** Names that a message lists; certificates of large sites have hundreds. */
const maxNamesTold = 4;

/** `sha256:` and 64 hexadecimal digits of the certificate's DER: what pins and join lines carry. */
export function fingerprintOf(certificate: X509Certificate): string {
  return `sha256:${createHash("sha256").update(certificate.raw).digest("hex")}`;
}

/** A fingerprint in its one spelling; colons and capitals are taken too. Undefined: it is none. */
export function parseFingerprint(text: string): string | undefined {
  const digits = text
    .trim()
    .toLowerCase()
    .replace(/^sha-?256[:=]/, "")
    .replaceAll(":", "");
  return /^[0-9a-f]{64}$/.test(digits) ? `sha256:${digits}` : undefined;
}

/** Whom a certificate is for: its names, else its subject. */
export function namesOf(certificate: X509Certificate): string {
  const names = (certificate.subjectAltName ?? "")
    .split(", ")
    .map((name) => name.replace(/^(?:DNS|IP Address):/, ""))
    .filter((name) => name !== "");
  if (names.length === 0) return subjectOf(certificate.subject);
  const rest = names.length - maxNamesTold;
  return `${names.slice(0, maxNamesTold).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}

/** A distinguished name in one line. */
export function subjectOf(name: string | undefined): string {
  return (name ?? "").trim().replaceAll("\n", ", ") || "nobody";
}
