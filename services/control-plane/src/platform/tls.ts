/**
 * TLS of the port: the newest certificate and key that work, renewed while the
 * server runs.
 *
 * K1: a pair that does not work never replaces one that does; it is told once,
 *     and counted.
 * K2: what is connected stays as it is; new connections get the new pair.
 */
import type { TlsOptions } from "node:tls";
import { checkTls, readTlsFiles, type TlsFiles, type TlsMaterial, type TlsTexts } from "./tls-files.ts";

export interface PortTls {
  /** For the next connections. */
  options(): TlsOptions;
  /** Is called after a reload. */
  changed(listener: () => void): void;
}

export interface ServerTls extends PortTls {
  /** What is in force. */
  material(): Pick<TlsMaterial, "subject" | "validTo" | "caFingerprint">;
  /** Looks at the files until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

export interface TlsPorts {
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  reloaded(outcome: "ok" | "failed"): void;
}

/**
 * How often the files are looked at. By content: a changed time is not always
 * seen (a mounted secret is a link that moves), and events of the file system
 * neither. Three small files every two seconds cost nothing.
 */
const lookEveryMs = 2_000;

/** Reads the files for the first time. Throws TLS_FILES_UNUSABLE. */
export async function openTls(files: TlsFiles, ports: TlsPorts): Promise<ServerTls> {
  let current = checkTls(files, await readTlsFiles(files));
  /** What did not work at the look before: a pair is written in two steps, so only the second look complains. */
  let suspect = "";
  let told = "";
  const listeners: (() => void)[] = [];

  const look = async (): Promise<void> => {
    let texts: TlsTexts | undefined;
    let seen = "unreadable";
    try {
      texts = await readTlsFiles(files);
      seen = JSON.stringify(texts);
      if (seen === JSON.stringify(current.texts)) {
        suspect = told = "";
        return;
      }
      current = checkTls(files, texts);
    } catch (error) {
      const isNew = seen !== told;
      if (isNew && seen === suspect) {
        told = seen;
        ports.reloaded("failed");
        ports.log.warn({ detail: (error as Error).message }, "the new TLS files do not work; the old ones stay"); // K1
      }
      suspect = seen;
      return;
    }
    suspect = told = "";
    for (const listener of listeners) listener();
    ports.reloaded("ok");
    const { subject, validTo } = current;
    ports.log.info({ subject, validTo: validTo.toISOString() }, "the TLS files were reloaded");
  };

  return {
    options: () => {
      const { cert, key, clientCa } = current.texts;
      return { cert, key, ...(files.clientCa === "" ? {} : { ca: clientCa }) };
    },
    changed: (listener) => void listeners.push(listener),
    material: () => current,
    async run(signal) {
      while (!signal.aborted) {
        await ports.sleep(lookEveryMs, signal);
        if (!signal.aborted) await look();
      }
    },
  };
}
