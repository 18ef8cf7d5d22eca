/**
 * A CA by its fingerprint: a first look takes it out of the chain that the
 * server shows; a second dial, with that CA, checks the server as always.
 *
 * F1: nothing is sent on the connection of the first look, and what it shows
 *     is trusted for nothing but its hash. Whoever is between may show the
 *     right CA; only the second dial tells whether the server has its word.
 */
import { X509Certificate } from "node:crypto";
import type { DetailedPeerCertificate, TLSSocket } from "node:tls";
import { fingerprintOf } from "./certificates.ts";
import { type DialOptions, dialSocket, type StepReport } from "./dial.ts";
import { DialError } from "./reasons.ts";
import { authorityOf, type DialTarget, endpointOf } from "./target.ts";

/** Longer chains are nobody's; each certificate is hashed. */
const maxChain = 10;

/**
 * The PEM of the certificate in the server's chain that has this fingerprint
 * (as parseFingerprint spells it), checked: the server's own was issued under
 * it. Rejects with a DialError; CA_FINGERPRINT_MISMATCH where none has it.
 */
export async function pinAuthority(
  target: DialTarget,
  fingerprint: string,
  options: DialOptions = {},
): Promise<string> {
  const { signal, report } = options;
  // What was seen without any check is no step that worked.
  const way = (step: StepReport): void => void (step.step !== "tls" && report?.(step));
  const looked = (await dialSocket(target, { signal, report: way, protocol: "h2", trust: "anyone" })) as TLSSocket;
  const chain = chainOf(looked);
  looked.destroy(); // F1
  const found = chain.find((certificate) => fingerprintOf(certificate) === fingerprint);
  if (found === undefined) {
    const whom = authorityOf(endpointOf(new URL(target.url)));
    throw new DialError(
      "tls",
      "CA_FINGERPRINT_MISMATCH",
      `${whom} shows ${chain.length} certificate${chain.length === 1 ? "" : "s"}, none of them with the fingerprint ${fingerprint}`,
      { remedy: "Take the fingerprint of a new join line. If it is the same, something between opens TLS." },
    );
  }
  const ca = found.toString();
  const checked = (step: StepReport): void => void (step.step === "tls" && report?.(step));
  (await dialSocket({ ...target, ca }, { signal, report: checked, protocol: "h2" })).destroy(); // F1
  return ca;
}

function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let next: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  while (next?.raw !== undefined && chain.length < maxChain) {
    chain.push(new X509Certificate(next.raw));
    next = next.issuerCertificate === next ? undefined : next.issuerCertificate;
  }
  return chain;
}
