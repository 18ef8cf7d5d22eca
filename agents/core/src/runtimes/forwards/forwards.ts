/**
 * The forwards of one deployment: who is led to, and when.
 *
 *   forwarder.ts  what passes on    stored.ts  numbers    ../rollout.ts  when a generation takes over
 *
 * W1: what is led to is what the record says, but within an attempt: then what
 *     the attempt has `staged` or `taken`, until `settle`.
 * W2: an instance is led to while it is ready. One whose health is not known
 *     again (the agent is new) is led to if it was before; or, where the agent
 *     before died between two sides, if nobody else could be.
 * W3: connections to what runs and is not led to any more go on; those to what
 *     goes, or has another address now, are drained.
 * W4: the forwarder is looked after as long as the agent lives: what is told and
 *     what runs are the same again within a second or two, and another version
 *     than this agent's is replaced.
 *
 * Long because what is wished, told and seen must agree in every line.
 */
import { systemClock } from "@bowline/kernel";
import type { Forwards, Held, Member, StoredForward } from "../members.ts";
import { chooseFree, findPort, portName } from "../ports.ts";
import { asRefusal, Refusal } from "../refusal.ts";
import type { ForwardDocument, ForwardTarget } from "./document.ts";
import type { Forwarder } from "./forwarder.ts";
import { assignForwards } from "./stored.ts";

export interface ForwardSurroundings<M extends Member> {
  forwarder: Forwarder;
  /** Where the forwarder finds a port of an instance. Unset: where the agent does. */
  target?: (member: M, port: string) => { host: string; port: number } | undefined;
  /** Whether the forwarder's ports are those of the agent's own host, so that a port in use is seen before anything starts. */
  portsAreHere: boolean;
  defaultAddress: string;
  /** Whether a port number belongs to something of this runtime already. */
  reserved: (port: number) => boolean;
  /** What is observed has changed. */
  changed: () => void;
  note: (level: "info" | "warn" | "error", message: string, facts: Record<string, unknown>) => void;
}

/** Changes of instances within this time are told as one. */
const coalesceMs = 20;
/** Between two looks at the forwarder (W4). */
const lookMs = 500;
/** Between two looks at what is drained. */
const drainLookMs = 30;
/** The forwarder cuts at the end of the drain; this is for one that does not. */
const drainSlackMs = 5_000;

interface Wish {
  forwards: readonly StoredForward[];
  slots: ReadonlySet<string>;
}

export function createForwards<M extends Member>(
  held: Pick<Held<M>, "record" | "slots" | "readiness" | "reach" | "saveRecord" | "onChange">,
  { forwarder, target, portsAreHere, defaultAddress, reserved, changed, note }: ForwardSurroundings<M>,
): Forwards<M> {
  const facts = { deployment: held.record.id };
  const going = new Set<string>();
  /** Slots of the last good generation that ran when this agent came, and of whose health it knows nothing yet (W2). */
  const adopted = new Set<string>();
  let attempt: Wish | undefined;
  /** What was told last: in force, but for the time in between. */
  let last: Omit<ForwardDocument, "revision"> | undefined;
  let turn: Promise<unknown> = Promise.resolve();
  let following: { stop(): void } | undefined;
  /** False while it is not known what is in force. */
  let told = true;
  /** Of all that was told: what is drained by a document that knows its forward no more takes as long. */
  let longestDrainMs = 0;
  let wrong = "";
  let ended = false;
  let looked = true;

  function wish(): Wish {
    if (attempt !== undefined) return attempt;
    const { record } = held;
    const serves = record.settled && (record.desired === "RUNNING" || record.desired === "PAUSED");
    return { forwards: serves ? (record.forwards ?? []) : [], slots: new Set(record.current) };
  }

  function targetOf(member: M, port: string): ForwardTarget | undefined {
    const address = target === undefined ? held.reach(member, port) : target(member, port);
    if (address === undefined) return undefined;
    return { ...address, key: `${member.definition.slot}@${address.host}:${address.port}` };
  }

  /** W2. */
  function targetsOf(members: readonly M[], port: string, before: ReadonlySet<string>): ForwardTarget[] {
    const led: ForwardTarget[] = [];
    const unknown: ForwardTarget[] = [];
    for (const member of members) {
      const { slot } = member.definition;
      const readiness = held.readiness(member).kind;
      const { kind } = member.phase();
      const waits = readiness === "waiting" && (kind === "running" || kind === "paused");
      if (!waits) adopted.delete(slot);
      const target = targetOf(member, port);
      if (target === undefined) continue;
      if ((readiness === "ready" && kind === "running") || (waits && before.has(target.key))) led.push(target);
      else if (adopted.has(slot)) unknown.push(target);
    }
    return led.length === 0 ? unknown : led;
  }

  function compile(): Omit<ForwardDocument, "revision"> {
    const { forwards, slots } = wish();
    const before = new Set(
      (last?.forwards ?? []).flatMap(({ backends }) =>
        backends.flatMap(({ targets }) => targets.map(({ key }) => key)),
      ),
    );
    for (const slot of going) if (!held.slots.has(slot)) going.delete(slot);
    const members = [...held.slots.values()].sort((a, b) => a.definition.index - b.definition.index);
    const leads = members.filter(({ definition: { slot } }) => slots.has(slot) && !going.has(slot));
    const resting = members
      .filter((member) => !going.has(member.definition.slot) && ["running", "paused"].includes(member.phase().kind))
      .flatMap((member) => member.definition.ports.flatMap((port) => targetOf(member, portName(port))?.key ?? []));
    return {
      forwards: forwards.map(({ name, protocol, address, published, drainMs, backends }) => ({
        name,
        protocol,
        address,
        port: published,
        drainMs,
        backends: backends.map(({ workload, port, weight }) => ({
          name: `${workload}/${port}`,
          weight,
          targets: targetsOf(
            leads.filter((member) => member.workload.name === workload),
            port,
            before,
          ),
        })),
      })),
      resting: [...new Set(resting)].sort(),
    };
  }

  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work, work);
    turn = mine.catch(() => undefined); // its own caller hears of that
    return mine;
  }

  /** Tells the forwarder what holds now. `strict`: throws where a port is not to be had. */
  async function push(strict: boolean): Promise<void> {
    const document = compile();
    const same = last !== undefined && JSON.stringify(document) === JSON.stringify(last);
    if (document.forwards.length === 0 && (last?.forwards.length ?? 0) === 0 && !forwarder.alive()) return;
    if (!same || !told || !forwarder.alive()) {
      told = false;
      longestDrainMs = Math.max(longestDrainMs, ...document.forwards.map(({ drainMs }) => drainMs));
      const { refused } = await forwarder.tell(document);
      if (refused !== undefined) {
        if (strict) throw refusalOf(refused);
        throw new Error(`forward ${refused.forward}: ${refused.message}`);
      }
      [last, told] = [document, true];
    }
    const { closed = [] } = forwarder.status() ?? {};
    const [first] = closed;
    if (first !== undefined && strict) throw refusalOf(first);
    setProblem(closed.map(({ forward, code }) => `forward ${forward} has no port: ${code}`).join("; "));
    follow();
  }

  function refusalOf({ forward, code }: { forward: string; code: string }): Refusal {
    const wanted = wish().forwards.find(({ name }) => name === forward);
    const port = `port ${wanted?.published} on ${wanted?.address} (forward ${forward})`;
    if (code === "EADDRINUSE") return new Refusal("PORT_TAKEN", `${port} is in use by another program`, true);
    if (code === "EADDRNOTAVAIL") return new Refusal("START_FAILED", `${port} is not an address of this host`, false);
    if (code === "EACCES") return new Refusal("START_FAILED", `${port} needs rights that the agent lacks`, false);
    return new Refusal("START_FAILED", `${port} cannot be opened: ${code}`, true);
  }

  function setProblem(next: string): void {
    if (wrong === next) return;
    if (next === "") note("info", "the forwards are in order again", facts);
    else note("warn", "something is wrong with the forwards", { ...facts, problem: next });
    wrong = next;
    changed();
  }

  /** W2, W4: from the first document on. */
  function follow(): void {
    if (following !== undefined || ended) return;
    let soon: NodeJS.Timeout | undefined;
    const tell = (): void => {
      soon ??= setTimeout(() => {
        soon = undefined;
        void inTurn(() => push(false)).catch(failed);
      }, coalesceMs);
    };
    const stop = held.onChange(tell);
    const looking = setInterval(() => {
      if (!looked) return; // the one before waits still
      looked = false;
      void inTurn(look)
        .catch(failed)
        .finally(() => (looked = true));
    }, lookMs);
    looking.unref();
    following = {
      stop() {
        stop();
        clearTimeout(soon);
        clearInterval(looking);
        following = undefined;
      },
    };
  }

  function failed(error: unknown): void {
    setProblem(`the forwards are not in order: ${asRefusal(error)?.message ?? String(error)}`);
  }

  /** W4. */
  async function look(): Promise<void> {
    if (ended || (last?.forwards.length ?? 0) === 0) return;
    if (!forwarder.alive()) {
      setProblem("the forwarder has ended and is started again");
      return await push(false);
    }
    const { closed = [] } = forwarder.status() ?? {};
    if (closed.length > 0 && attempt === undefined) await renew(closed);
    await push(false);
  }

  /** W4. Whoever is connected loses the connection, as a forwarder's end has it. */
  async function replaceOutdated(): Promise<void> {
    if (!forwarder.outdated() || wish().forwards.length === 0) return;
    note("info", "the forwarder is of another version and is replaced", facts);
    await forwarder.renew();
  }

  /** A free number that another program has taken is given up for another one. */
  async function renew(closed: readonly { forward: string; code: string }[]): Promise<void> {
    const forwards = structuredClone(held.record.forwards ?? []);
    let renewed = false;
    for (const forward of forwards) {
      const lost = closed.some(({ forward: name, code }) => name === forward.name && code === "EADDRINUSE");
      if (!lost || !forward.dynamic) continue;
      forward.published = await chooseFree(forward.address, forward.protocol, reserved, portsAreHere);
      renewed = true;
    }
    if (renewed) await held.saveRecord({ forwards });
  }

  async function drained(busy: (key: string) => boolean, signal: AbortSignal): Promise<void> {
    const limit = performance.now() + longestDrainMs + drainSlackMs;
    while (!signal.aborted && performance.now() < limit && forwarder.alive()) {
      if (forwarder.status()?.draining.some(busy) !== true) return;
      await systemClock.sleep(drainLookMs, signal);
    }
  }

  return {
    assign: (spec) => assignForwards(spec, held, { defaultAddress, reserved, portsAreHere }),
    async stage(slots) {
      const { forwards } = wish();
      if (forwards.length === 0) return;
      attempt = { forwards, slots: new Set(slots) };
      await inTurn(() => push(false));
    },
    async take(forwards, slots) {
      const before = attempt;
      attempt = { forwards, slots: new Set(slots) };
      try {
        await inTurn(() => push(true));
      } catch (error) {
        attempt = before;
        await inTurn(() => push(false));
        throw error;
      }
    },
    async settle() {
      attempt = undefined;
      for (const slot of held.record.current) going.delete(slot); // it was drained for an attempt that failed
      await inTurn(() => push(false));
      if (wish().forwards.length > 0) return;
      following?.stop();
      await inTurn(() => forwarder.end());
    },
    async drain(slots, signal) {
      if (last === undefined || !forwarder.alive()) return;
      for (const slot of slots) going.add(slot);
      await inTurn(() => push(false));
      await drained((key) => slots.some((slot) => key.startsWith(`${slot}@`)), signal);
    },
    async close(signal) {
      attempt = { forwards: [], slots: new Set() };
      for (const slot of held.slots.keys()) going.add(slot);
      try {
        if (forwarder.alive()) {
          await inTurn(() => push(false));
          await drained(() => true, signal);
        }
        following?.stop();
        await inTurn(() => forwarder.end());
        last = undefined;
      } finally {
        going.clear();
      }
    },
    async erase() {
      following?.stop();
      await inTurn(() => forwarder.erase());
      [last, attempt, wrong] = [undefined, undefined, ""];
    },
    resume() {
      void inTurn(async () => {
        const { revision, ...document } = (await forwarder.stored()) ?? { revision: 0, forwards: [], resting: [] };
        last = document;
        for (const slot of held.record.current) adopted.add(slot);
        await forwarder.adopt();
        await replaceOutdated();
        told = forwarder.status()?.revision === revision; // the agent before may have died before it told
        await push(false);
        if (wish().forwards.length === 0) await forwarder.end(); // of an attempt that is over
      }).catch((error: unknown) => {
        failed(error);
        follow();
      });
    },
    shown(member, ports) {
      const { forwards, slots } = wish();
      if (forwards.length === 0 || !slots.has(member.definition.slot)) return [...ports];
      const led = forwards.flatMap(({ address, published, backends }) =>
        backends
          .filter(({ workload }) => workload === member.workload.name)
          .flatMap(({ port }) => findPort(member.definition.ports, port) ?? [])
          .map(({ name, container }) => ({ name, container, address, published })),
      );
      return [...led, ...ports.filter(({ name }) => !led.some((port) => port.name === name))];
    },
    problem: (member) => (wrong !== "" && wish().slots.has(member.definition.slot) ? wrong : ""),
    async letGo() {
      ended = true;
      following?.stop();
      await turn;
      forwarder.letGo();
    },
    async suspend() {
      ended = true;
      following?.stop();
      await inTurn(() => forwarder.end());
      forwarder.letGo();
    },
  };
}
