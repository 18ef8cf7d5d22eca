/**
 * Certificates for tests: a CA of the test's own and what it signs (ECDSA
 * P-256). Made in a millisecond, without a program or a package.
 *
 *     const ca = certificateAuthority();
 *     const server = ca.issue({ names: ["localhost", "127.0.0.1"] });
 *     server.chain  // PEM: its own and the CA's     server.key  // PEM
 */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign, X509Certificate } from "node:crypto";
import { writeFileSync } from "node:fs";
import { isIPv4 } from "node:net";
import { join } from "node:path";
import { bits, boolean, der, integer, octets, oid, sequence, set, tagged, text, time } from "./der.ts";
import { temporaryFolder } from "./folders.ts";

/** A certificate with its key; all of it PEM. */
export interface Certificate {
  cert: string;
  key: string;
  /** Its own and those above it, the CA's last. */
  chain: string;
  /** `sha256:…` of its DER. */
  fingerprint: string;
  /** Writes `chain` and `key` into files of a folder that goes with the test. */
  files(): { cert: string; key: string };
}

export interface CertificateAuthority extends Certificate {
  issue(options?: IssueOptions): Certificate;
  /** An authority below this one. */
  intermediate(name?: string): CertificateAuthority;
}

export interface IssueOptions {
  /** Common name. Default: the first of `names`. */
  name?: string;
  /** DNS names and IPv4 addresses. Default: localhost and 127.0.0.1. */
  names?: readonly string[];
  /** Default: an hour ago, and a day ahead. */
  validFrom?: Date;
  validTo?: Date;
}

const hourMs = 3_600_000;

/** A CA that nobody trusts unless told. */
export function certificateAuthority(name = "Bowline test CA"): CertificateAuthority {
  return authority(name, undefined);
}

/** The CA and a certificate for `localhost`, `127.0.0.1` and more names. */
export function certificates(...more: readonly string[]): { ca: CertificateAuthority; server: Certificate } {
  const ca = certificateAuthority();
  return { ca, server: ca.issue({ names: ["localhost", "127.0.0.1", ...more] }) };
}

interface Issuer {
  name: string;
  key: KeyObject;
  chain: string;
}

function authority(name: string, above: Issuer | undefined): CertificateAuthority {
  const made = make({ name, names: [], authority: true, above });
  const issuer: Issuer = { name, key: made.privateKey, chain: made.chain };
  return {
    ...made,
    issue: (options = {}) => {
      const names = options.names ?? ["localhost", "127.0.0.1"];
      return make({ ...options, names, name: options.name ?? names[0] ?? "nobody", authority: false, above: issuer });
    },
    intermediate: (below = `${name}, intermediate`) => authority(below, issuer),
  };
}

function make(facts: {
  name: string;
  names: readonly string[];
  validFrom?: Date;
  validTo?: Date;
  authority: boolean;
  above: Issuer | undefined;
}): Certificate & { privateKey: KeyObject } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const signer = facts.above?.key ?? privateKey;
  const algorithm = sequence(oid("1.2.840.10045.4.3.2")); // ecdsa-with-SHA256
  const serial = randomBytes(15);
  const body = sequence(
    tagged(0, integer(Buffer.from([2]))), // version 3
    integer(Buffer.concat([Buffer.from([1]), serial])),
    algorithm,
    distinguished(facts.above?.name ?? facts.name),
    sequence(
      time(facts.validFrom ?? new Date(Date.now() - hourMs)),
      time(facts.validTo ?? new Date(Date.now() + 24 * hourMs)),
    ),
    distinguished(facts.name),
    publicKey.export({ type: "spki", format: "der" }),
    tagged(3, sequence(...extensions(facts, publicKey))),
  );
  const raw = sequence(body, algorithm, bits(sign("sha256", body, signer)));
  const cert = new X509Certificate(raw).toString();
  const chain = cert + (facts.above?.chain ?? "");
  const key = privateKey.export({ type: "pkcs8", format: "pem" }) as string;
  return {
    ...{ cert, key, chain, privateKey },
    fingerprint: `sha256:${createHash("sha256").update(raw).digest("hex")}`,
    files() {
      const folder = temporaryFolder();
      const files = { cert: join(folder, "tls.crt"), key: join(folder, "tls.key") };
      writeFileSync(files.cert, chain);
      writeFileSync(files.key, key, { mode: 0o600 });
      return files;
    },
  };
}

function extensions(facts: { names: readonly string[]; authority: boolean }, publicKey: KeyObject): Buffer[] {
  const critical = (id: string, value: Buffer): Buffer => sequence(oid(id), boolean(true), octets(value));
  const keyId = createHash("sha1")
    .update(publicKey.export({ type: "spki", format: "der" }))
    .digest();
  const all = [sequence(oid("2.5.29.14"), octets(octets(keyId)))];
  if (facts.authority) {
    all.push(critical("2.5.29.19", sequence(boolean(true)))); // basicConstraints: CA
    all.push(critical("2.5.29.15", bits(Buffer.from([0x06]), 1))); // keyUsage: certificates, CRLs
    return all;
  }
  all.push(critical("2.5.29.15", bits(Buffer.from([0x80]), 7))); // keyUsage: signatures
  const names = facts.names.map((name) =>
    isIPv4(name) ? der(0x87, Buffer.from(name.split(".").map(Number))) : der(0x82, Buffer.from(name, "latin1")),
  );
  if (names.length > 0) all.push(sequence(oid("2.5.29.17"), octets(sequence(...names))));
  return all;
}

function distinguished(name: string): Buffer {
  return sequence(set(sequence(oid("2.5.4.3"), text(name))));
}
