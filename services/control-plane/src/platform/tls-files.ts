/**
 * The server's certificate, its key and the CA of clients, from files that may
 * change while it runs.
 *
 *   tls.ts   watches them and hands the newest pair that works to the port
 *
 * What is wrong with them is told by the file's name and what would be right.
 */
import { createHash, createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createSecureContext, rootCertificates } from "node:tls";
import { problem, type Problem } from "@bowline/kernel";

/** Paths; `clientCa` empty: no client is asked for a certificate. */
export interface TlsFiles {
  cert: string;
  key: string;
  clientCa: string;
}

/** What the files hold, as text. */
export type TlsTexts = { cert: string; key: string; clientCa: string };

export interface TlsMaterial {
  texts: TlsTexts;
  /** Subject of the server's own certificate, in one line. */
  subject: string;
  validTo: Date;
  /**
   * `sha256:…` of the highest authority in the server's own chain, which agents
   * may pin; undefined where a public one is above it, or where the file shows
   * no authority: a pin of the server's own certificate would end with it.
   */
  caFingerprint: string | undefined;
}

/** Larger files are no certificates; each look reads them whole. */
const maxFileBytes = 1024 * 1024;

const certificates = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Reads the files. Throws TLS_FILES_UNUSABLE. */
export async function readTlsFiles(files: TlsFiles): Promise<TlsTexts> {
  const read = async (path: string): Promise<string> => {
    if (path === "") return "";
    const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
      throw unusable(`${path} cannot be read: ${error.code ?? error.message}`, error);
    });
    if (Buffer.byteLength(text) > maxFileBytes) throw unusable(`${path} is larger than ${maxFileBytes} bytes`);
    return text;
  };
  return { cert: await read(files.cert), key: await read(files.key), clientCa: await read(files.clientCa) };
}

/** Makes sure that they work together, now. Throws TLS_FILES_UNUSABLE. */
export function checkTls(files: TlsFiles, texts: TlsTexts, now: Date = new Date()): TlsMaterial {
  const chain = chainOf(files.cert, texts.cert);
  const [own] = chain;
  if (own === undefined) throw unusable(`${files.cert} holds no certificate in PEM`);
  if (!own.checkPrivateKey(keyOf(files.key, texts.key))) {
    throw unusable(`the key in ${files.key} is not that of the certificate in ${files.cert} (${oneLine(own.subject)})`);
  }
  const validTo = new Date(own.validTo);
  if (validTo <= now) {
    throw unusable(`the certificate in ${files.cert} (${oneLine(own.subject)}) expired on ${validTo.toISOString()}`);
  }
  if (files.clientCa !== "" && chainOf(files.clientCa, texts.clientCa).length === 0) {
    throw unusable(`${files.clientCa} holds no certificate in PEM`);
  }
  try {
    createSecureContext({ cert: texts.cert, key: texts.key, ...(files.clientCa === "" ? {} : { ca: texts.clientCa }) });
  } catch (error) {
    throw unusable(`${files.cert} and ${files.key} cannot be used for TLS: ${(error as Error).message}`, error);
  }
  return { texts, subject: oneLine(own.subject), validTo, caFingerprint: pinOf(chain) };
}

/** `sha256:` and 64 hexadecimal digits of a certificate's DER. */
export function thumbprintOf(raw: Uint8Array): string {
  return `sha256:${createHash("sha256").update(raw).digest("hex")}`;
}

function pinOf(chain: readonly X509Certificate[]): string | undefined {
  const top = chain.at(-1);
  if (top === undefined) return undefined;
  const isSelfSigned = top.subject === top.issuer;
  if (!top.ca && !isSelfSigned) return undefined;
  const isPublic = rootCertificates.some((pem) => {
    const root = new X509Certificate(pem);
    return root.fingerprint256 === top.fingerprint256 || (root.subject === top.issuer && top.verify(root.publicKey));
  });
  return isPublic ? undefined : thumbprintOf(top.raw);
}

function chainOf(file: string, text: string): X509Certificate[] {
  return [...text.matchAll(certificates)].map(([pem]) => {
    try {
      return new X509Certificate(pem);
    } catch (error) {
      throw unusable(`${file} holds a certificate that cannot be read: ${(error as Error).message}`, error);
    }
  });
}

function keyOf(file: string, text: string): KeyObject {
  if (text.includes("ENCRYPTED")) throw unusable(`the key in ${file} is encrypted; give one without a passphrase`);
  try {
    return createPrivateKey(text);
  } catch (error) {
    throw unusable(`${file} holds no private key in PEM`, error);
  }
}

function oneLine(name: string): string {
  return name.trim().replaceAll("\n", ", ");
}

function unusable(message: string, cause?: unknown): Problem {
  return problem("TLS_FILES_UNUSABLE", message, { cause });
}
