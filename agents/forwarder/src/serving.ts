/**
 * A document in force: its ports are open and lead where it says.
 *
 * F1: a document is taken as a whole or not at all: all new ports are open
 *     before anything changes, and none of the old ones is closed before that.
 *     Only the first one may have ports that are not to be had: then a restart
 *     serves what it can, and goes on trying.
 * F2: a port that stays is not touched; only where it leads changes.
 */
import type { ForwardDocument, ForwardDocumentEntry, ForwardStatus } from "@bowline/agent-core/forwards";
import { Choice } from "./choice.ts";
import type { Relays } from "./relays.ts";
import { listenTcp, type Listening } from "./tcp.ts";
import { listenUdp } from "./udp.ts";

/**
 * Between two tries to open a port that a restart did not get: the first soon, since it may be an older version of
 * ourselves that makes room; doubled up to the other, since a stranger may keep it for good.
 */
const openAgainFirstMs = 50;
const openAgainMaxMs = 1_000;

interface Open {
  /** As it was when it was opened. */
  entry: ForwardDocumentEntry;
  choice: Choice;
  listening: Listening;
}

type Refused = NonNullable<ForwardStatus["refused"]>;

export class Serving {
  readonly #relays: Relays;
  /** Called when a port is open that was not. */
  readonly #opened: () => void;
  readonly #open = new Map<string, Open>();
  #closed: ForwardStatus["closed"] = [];
  #document: ForwardDocument | undefined;
  #again: NodeJS.Timeout | undefined;
  #againMs = openAgainFirstMs;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(relays: Relays, opened: () => void) {
    this.#relays = relays;
    this.#opened = opened;
  }

  get revision(): number {
    return this.#document?.revision ?? 0;
  }

  get closed(): ForwardStatus["closed"] {
    return this.#closed;
  }

  /** One after the other. Returns why it is not taken (F1). */
  take(document: ForwardDocument): Promise<Refused | undefined> {
    return this.#inTurn(() => this.#take(document));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work, work);
    this.#turn = mine.catch(() => undefined); // its own caller hears of that
    return mine;
  }

  async #take(document: ForwardDocument): Promise<Refused | undefined> {
    const first = this.#document === undefined;
    const wanted = new Map(document.forwards.map((entry) => [placeOf(entry), entry]));
    const leaving = [...this.#open.keys()].filter((place) => !wanted.has(place));
    const opened: Open[] = [];
    const aside: Open[] = [];
    const failed: Omit<Refused, "revision">[] = [];
    for (const [place, entry] of wanted) {
      if (this.#open.has(place)) continue;
      try {
        opened.push(await this.#openOne(entry, leaving, aside));
      } catch (error) {
        const { code = "UNKNOWN", message } = error as NodeJS.ErrnoException;
        failed.push({ forward: entry.name, code, message });
      }
    }
    const worst = failed.find(({ forward }) => !this.#closed.some((before) => before.forward === forward));
    if (worst !== undefined && !first) {
      for (const { listening } of opened) await listening.close();
      for (const { entry } of aside) this.#open.set(placeOf(entry), await this.#openOne(entry, [], []));
      return { revision: document.revision, ...worst };
    }
    for (const one of opened) this.#open.set(placeOf(one.entry), one);
    this.#document = document;
    this.#closed = failed.map(({ forward, code }) => ({ forward, code }));
    for (const [place, entry] of wanted) this.#open.get(place)?.choice.update(entry.backends); // F2
    this.#relays.update(document);
    for (const place of leaving) await this.#close(place);
    clearTimeout(this.#again);
    if (failed.length > 0) this.#again = setTimeout(() => void this.#inTurn(() => this.#retry()), this.#againMs);
    this.#againMs = failed.length === 0 ? openAgainFirstMs : Math.min(this.#againMs * 2, openAgainMaxMs);
    return undefined;
  }

  close(): Promise<void> {
    return this.#inTurn(async () => {
      clearTimeout(this.#again);
      for (const place of [...this.#open.keys()]) await this.#close(place);
    });
  }

  /** `aside` gets those of `leaving` that had to make room. */
  async #openOne(entry: ForwardDocumentEntry, leaving: readonly string[], aside: Open[]): Promise<Open> {
    const choice = new Choice(entry.backends);
    const listen = entry.protocol === "udp" ? listenUdp : listenTcp;
    const open = async (): Promise<Open> => ({ entry, choice, listening: await listen(entry, choice, this.#relays) });
    try {
      return await open();
    } catch (error) {
      // All addresses and one of them cannot have a port at once: the one that goes makes room.
      const own = leaving.flatMap((place) => this.#open.get(place) ?? []);
      const inTheWay = own.filter(({ entry: old }) => old.port === entry.port && old.protocol === entry.protocol);
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || inTheWay.length === 0) throw error;
      for (const one of inTheWay) await this.#close(placeOf(one.entry));
      aside.push(...inTheWay);
      return await open();
    }
  }

  async #close(place: string): Promise<void> {
    const open = this.#open.get(place);
    this.#open.delete(place);
    await open?.listening.close();
  }

  /** F1: ports that the first document did not get. */
  async #retry(): Promise<void> {
    if (this.#document === undefined) return;
    await this.#take(this.#document);
    this.#opened();
  }
}

function placeOf({ protocol, address, port, name }: ForwardDocumentEntry): string {
  return `${protocol} ${address} ${port} ${name}`;
}
