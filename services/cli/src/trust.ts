/**
 * Whom the CLI trusts at a server: the system's authorities, or one CA: by its
 * file, by its fingerprint, or the one that was kept with a context.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { type DialTarget, parseFingerprint, pinAuthority } from "@bowline/dial";
import type { Command } from "commander";
import type { Settings } from "./config.ts";
import { usage } from "./failure.ts";

export type TrustFlags = { caFile?: string; caFingerprint?: string };

/** Neither: whom the system trusts. */
export type Trust = {
  /** PEM. */
  ca?: string | undefined;
  /** Of a CA in the server's chain, as parseFingerprint spells it. */
  caFingerprint?: string | undefined;
};

/** Adds `--ca-file` and `--ca-fingerprint`. `or`: what counts without them. */
export function trusting(command: Command, or: string): Command {
  return command
    .option("--ca-file <file>", `CA of the server's certificate, PEM (env: BOWLINE_CA_FILE; default: ${or})`)
    .option(
      "--ca-fingerprint <sha256:…>",
      "fingerprint of that CA, which is then taken from the server's chain (env: BOWLINE_CA_FINGERPRINT)",
    );
}

/** What the flags say, else the environment. Throws a usage failure. */
export async function readTrust(settings: Settings, flags: TrustFlags): Promise<Trust> {
  const typed = flags.caFile !== undefined || flags.caFingerprint !== undefined;
  const { caFile, caFingerprint } = typed ? flags : settings;
  if (caFile !== undefined && caFingerprint !== undefined) {
    throw usage("a CA's file and a fingerprint both say whom to trust; give one", {
      lines: ["The flags --ca-file, --ca-fingerprint; the variables BOWLINE_CA_FILE, BOWLINE_CA_FINGERPRINT."],
    });
  }
  if (caFingerprint !== undefined) {
    const spelled = parseFingerprint(caFingerprint);
    if (spelled === undefined) {
      throw usage(`"${caFingerprint}" is not a fingerprint: write sha256: and 64 hexadecimal digits`);
    }
    return { caFingerprint: spelled };
  }
  return caFile === undefined ? {} : { ca: await readCa(resolve(settings.folder, caFile)) };
}

async function readCa(file: string): Promise<string> {
  const pem = await readFile(file, "utf8").catch((error: Error) => {
    throw usage(`the CA file ${file} cannot be read: ${error.message}`, { cause: error });
  });
  if (pem.includes("-----BEGIN CERTIFICATE-----")) return pem;
  throw usage(`the CA file ${file} has no certificate in it (PEM: -----BEGIN CERTIFICATE-----)`);
}

/**
 * The CA to trust at `target`: looked for by its fingerprint at the first
 * call, if it came by one; undefined: the system's, or clear text, where there
 * is nobody to trust. Rejects with a DialError.
 */
export function authorityOf(target: DialTarget, trust: Trust): () => Promise<string | undefined> {
  const { ca, caFingerprint } = trust;
  if (caFingerprint === undefined || !target.url.startsWith("https:")) return async () => ca;
  let found: Promise<string> | undefined;
  return () => {
    found ??= pinAuthority(target, caFingerprint).catch((error: unknown) => {
      found = undefined; // a watch dials again, and may find it then
      throw error;
    });
    return found;
  };
}
