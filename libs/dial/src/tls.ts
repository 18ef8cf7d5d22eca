/**
 * The step of TLS.
 *
 * S1: a connection whose peer's certificate does not hold is destroyed before
 *     anybody gets it. That is decided here and not by node:tls, which would
 *     take away the certificate that the message is about.
 */
import { X509Certificate } from "node:crypto";
import { isIP, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { bounded } from "./bounded.ts";
import { fingerprintOf, subjectOf } from "./certificates.ts";
import { authorityOf, type DialTarget, type Endpoint } from "./target.ts";
import { tlsError } from "./tls-errors.ts";

/** What TLS came to. */
export interface TlsFacts {
  /** `TLSv1.3`. */
  version: string;
  /** `h2`, `http/1.1`, or empty: the server chose none. */
  alpn: string;
  subject: string;
  issuer: string;
  validTo: string;
  /** Of the server's own certificate. */
  fingerprint: string;
}

export async function openTls(
  socket: Socket,
  server: Endpoint,
  how: Pick<DialTarget, "ca" | "clientCertificate"> & { protocol: "h2" | "http/1.1"; trust: "checked" | "anyone" },
  within: number,
  signal: AbortSignal | undefined,
): Promise<[TLSSocket, TlsFacts]> {
  const whom = authorityOf(server);
  return bounded(
    { step: "tls", reason: "TLS_FAILED", what: `no TLS handshake with ${whom}`, within, signal },
    (settle) => {
      let secure: TLSSocket;
      try {
        checkPem(how.clientCertificate);
        secure = connectTls({
          socket,
          host: server.host,
          ...(isIP(server.host) === 0 ? { servername: server.host } : {}), // SNI takes no addresses
          ALPNProtocols: [how.protocol],
          minVersion: "TLSv1.2",
          rejectUnauthorized: false, // S1
          ...(how.ca === undefined ? {} : { ca: how.ca, allowPartialTrustChain: true }),
          ...how.clientCertificate,
        });
      } catch (error) {
        settle.reject(tlsError(error as Error, whom, undefined, how)); // a file that is not what it should be
        return () => undefined;
      }
      const failed = (error: Error): void => settle.reject(tlsError(error, whom, undefined, how));
      const cut = (): void => failed(new Error("the connection was cut during the handshake"));
      secure.once("error", failed).once("close", cut);
      secure.once("secureConnect", () => {
        secure.off("error", failed).off("close", cut);
        const certificate = presentedBy(secure);
        if (!secure.authorized && how.trust === "checked") {
          secure.on("error", () => undefined); // it is destroyed
          const code = String(secure.authorizationError ?? "no certificate");
          return settle.reject(tlsError(Object.assign(new Error(code), { code }), whom, certificate, how)); // S1
        }
        settle.resolve([
          secure,
          {
            version: secure.getProtocol() ?? "",
            alpn: secure.alpnProtocol || "",
            subject: subjectOf(certificate?.subject),
            issuer: subjectOf(certificate?.issuer),
            validTo: certificate?.validTo ?? "",
            fingerprint: certificate === undefined ? "" : fingerprintOf(certificate),
          },
        ]);
      });
      return () => secure.destroy();
    },
  );
}

/** What is empty would be left out in silence. */
function checkPem(pair: DialTarget["clientCertificate"]): void {
  const isPem = (text: string): boolean => text.includes("-----BEGIN ");
  if (pair === undefined || (isPem(pair.cert) && isPem(pair.key))) return;
  throw Object.assign(new Error("no PEM"), { code: "NOT_PEM" });
}

function presentedBy(socket: TLSSocket): X509Certificate | undefined {
  const { raw } = socket.getPeerCertificate() as { raw?: Buffer };
  return raw === undefined ? undefined : new X509Certificate(raw); // an anonymous cipher shows none
}
