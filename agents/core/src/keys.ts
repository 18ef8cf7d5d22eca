/**
 * The agent's key pairs on its disk: those that it has, those that it is about
 * to have, and what was sealed to those before.
 *
 * K1: the next keys are on the disk before the server hears of them, and the
 *     present ones stay until the server has taken the next: after a crash at
 *     any moment the agent has the key that the server has.
 * K2: `signing-key.json` is the point of no return of a change; whatever else a
 *     crash left undone is done at the next start.
 * K3: what was sealed to an earlier key can still be opened: specs in the
 *     journal and secrets of what runs keep for as long as they run.
 */
import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  generateKey,
  type KeyPair,
  loadOrCreateKey,
  openSealed,
  type PrivateJwk,
  readKeyPair,
  readPrivateFile,
  syncFolder,
  writePrivateFile,
} from "@bowline/auth";

export interface Keys {
  signing: KeyPair;
  sealing: KeyPair;
}

export interface KeyStore {
  /** What the server knows, as far as this disk knows. */
  current(): Keys;
  /** What the server may have instead: made for a change that has no known end. */
  next(): Keys | undefined;
  /** Next keys, on the disk when it resolves (K1). The same ones until they are promoted or dropped. */
  prepare(): Promise<Keys>;
  /** The server has the next keys: they are the current ones (K2). */
  promote(): Promise<void>;
  /** The server refused the next keys for good, and has not got them. */
  drop(): Promise<void>;
  /** How old the signing key is: by the time of its file. */
  ageMs(now: number): Promise<number>;
  /** Opens what was sealed to this agent, also before its last changes (K3). Throws if it was sealed to another. */
  open(sealed: string): Promise<Uint8Array>;
}

/** At a change per month this is five years; what was sealed longer ago is sealed anew by a new deployment. */
const keptSealingKeys = 64;

/** Loads the keys of a folder, or makes them, and ends a change that a crash cut short. */
export async function openKeyStore(dataDir: string): Promise<KeyStore> {
  const files = {
    signing: join(dataDir, "signing-key.json"),
    sealing: join(dataDir, "sealing-key.json"),
    next: join(dataDir, "next-keys.json"),
    earlier: join(dataDir, "earlier-sealing-keys.json"),
  };
  let current: Keys = {
    signing: await loadOrCreateKey(files.signing, "Ed25519"),
    sealing: await loadOrCreateKey(files.sealing, "X25519"),
  };
  let next = await readNext();
  let earlier = await readEarlier();

  const store: KeyStore = {
    current: () => current,
    next: () => next,
    async prepare() {
      if (next !== undefined) return next;
      const made = { signing: await generateKey("Ed25519"), sealing: await generateKey("X25519") };
      const kept = { signing: made.signing.privateJwk, sealing: made.sealing.privateJwk };
      await writePrivateFile(files.next, `${JSON.stringify(kept)}\n`);
      next = made;
      return made;
    },
    async promote() {
      if (next === undefined) return;
      const known = [current.sealing, ...earlier].filter(({ thumbprint }) => thumbprint !== next?.sealing.thumbprint);
      earlier = [...new Map(known.map((key) => [key.thumbprint, key])).values()].slice(0, keptSealingKeys);
      await writePrivateFile(files.earlier, `${JSON.stringify(earlier.map(({ privateJwk }) => privateJwk))}\n`); // K3
      await writePrivateFile(files.signing, `${JSON.stringify(next.signing.privateJwk)}\n`); // K2
      await writePrivateFile(files.sealing, `${JSON.stringify(next.sealing.privateJwk)}\n`);
      current = next;
      await store.drop();
    },
    async drop() {
      await rm(files.next, { force: true });
      await syncFolder(dataDir);
      next = undefined;
    },
    async ageMs(now) {
      return now - (await stat(files.signing)).mtimeMs;
    },
    async open(sealed) {
      let last: unknown;
      for (const { privateJwk } of [current.sealing, ...(next === undefined ? [] : [next.sealing]), ...earlier]) {
        try {
          return await openSealed(privateJwk, sealed);
        } catch (error) {
          last = error; // Sealed to another of them, or to none.
        }
      }
      throw last;
    },
  };
  if (next !== undefined && next.signing.thumbprint === current.signing.thumbprint) await store.promote(); // K2
  return store;

  async function readNext(): Promise<Keys | undefined> {
    const text = await readPrivateFile(files.next);
    if (text === undefined) return undefined;
    try {
      const { signing, sealing } = JSON.parse(text) as { signing: PrivateJwk; sealing: PrivateJwk };
      return { signing: await readKeyPair(signing, "Ed25519"), sealing: await readKeyPair(sealing, "X25519") };
    } catch (error) {
      // The server may have these: to go on without them could lose the agent.
      throw new Error(`${files.next} does not hold two private keys`, { cause: error });
    }
  }

  async function readEarlier(): Promise<KeyPair[]> {
    const text = await readPrivateFile(files.earlier);
    if (text === undefined) return [];
    try {
      return await Promise.all((JSON.parse(text) as unknown[]).map((jwk) => readKeyPair(jwk, "X25519")));
    } catch (error) {
      throw new Error(`${files.earlier} does not hold private X25519 keys`, { cause: error });
    }
  }
}
