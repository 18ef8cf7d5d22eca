/**
 * The forwarder of one deployment as a container of the agent's image, in the
 * network of the engine's host: the same program as beside an agent on the
 * host, handled through the engine alone.
 *
 *   forwarder-place.ts  whether, and of which image    forwarder-body.ts  what the engine is told
 *
 * C1: what is in force is in the agent's data folder, then in the container, and
 *     only then is the container told (SIGHUP) or started. So the engine starts
 *     it again with what holds, without an agent.
 * C2: what it says are lines of its output, of its present run. Who has said
 *     nothing yet is not taken for alive.
 * C3: it is found by its labels. Of several (an agent died while it replaced
 *     one) the one of this agent's version stays, else the one that runs.
 */
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { crashPoint, systemClock } from "@bowline/kernel";
import {
  makeFolder,
  readDurable,
  Refusal,
  unsupported,
  writeDurably,
  type Forwarder,
} from "@bowline/agent-core/runtimes";
import type { ForwardDocument, ForwardStatus } from "@bowline/agent-core/forwards";
import { archiveOf } from "./archive.ts";
import type { Inspected, Listed } from "./containers.ts";
import { EngineError, type Engine } from "./engine.ts";
import { bodyOf, home, stopSeconds, type ForwarderOwner } from "./forwarder-body.ts";
import { filterOf, forwarderSlot, labels, nameOf } from "./labels.ts";
import { followLines, tailOf } from "./logs.ts";
import { gone } from "./places.ts";

/** A container's start on a machine under load takes many seconds; one that takes longer hangs. */
const answerLimitMs = 45_000;
/** Without an answer it is told again after this: it may have read before we wrote, or a line was lost. */
const askAgainMs = 3_000;
/** What an earlier agent left says at once what is in force: it has said so before. */
const adoptLimitMs = 5_000;
/** From the end of the old version to the ports of the new one: the new one tries again every 50 ms at first. */
const handOverLimitMs = 5_000;
const lookMs = 15;
/** Between two looks at a container that does not run. */
const listenAgainMs = 200;

interface Heard {
  id: string;
  build: string;
  status: ForwardStatus | undefined;
  ends: AbortController;
}

/** What an earlier agent that was a container may have left, by deployment or of all. */
export async function removeForwarders(engine: Engine, wanted: Readonly<Record<string, string>>): Promise<void> {
  for (const { Id } of await listed(engine, wanted)) await removeOne(engine, Id);
}

export function forwarderContainer(deploymentId: string, dataDir: string, owner: ForwarderOwner): Forwarder {
  const { engine, agent, place } = owner;
  const marks = { [labels.agent]: agent, [labels.deployment]: deploymentId };
  const folder = join(dataDir, "forwarders");
  const file = join(folder, `${deploymentId}.json`);
  /** Of a process, which an agent on the host itself had left here; that ends with its folder. */
  const otherFolder = join(folder, deploymentId);
  let revision: number | undefined;
  let current: Heard | undefined;

  /** C2: until it is let go of. */
  async function listen(one: Heard): Promise<void> {
    const { signal } = one.ends;
    while (!signal.aborted) {
      try {
        const found = await engine.call<Inspected>("GET", `/containers/${one.id}/json`, { signal });
        if (found.State.Status === "running")
          for await (const line of followLines(engine, found, found.State.StartedAt, signal))
            one.status = JSON.parse(line) as ForwardStatus;
      } catch {
        // The engine is away, or the container: whoever needs it asks the engine, and is told.
      }
      one.status = undefined;
      await systemClock.sleep(listenAgainMs, signal);
    }
  }

  function hear(id: string, build: string): Heard {
    const one: Heard = { id, build, status: undefined, ends: new AbortController() };
    void listen(one); // never rejects
    return one;
  }

  function forget(): void {
    current?.ends.abort();
    current = undefined;
  }

  async function heard(
    one: Heard | undefined,
    holds: (status: ForwardStatus) => boolean,
    withinMs: number,
  ): Promise<ForwardStatus | undefined> {
    const limit = performance.now() + withinMs;
    for (;;) {
      if (one?.status !== undefined && holds(one.status)) return one.status;
      if (performance.now() > limit) return undefined;
      await systemClock.sleep(lookMs);
    }
  }

  /** C1: before its first start too. */
  async function carryIn(id: string, document: ForwardDocument): Promise<void> {
    const body = archiveOf(`${home.slice(1)}/config.json`, Buffer.from(JSON.stringify(document)));
    await engine.call("PUT", `/containers/${id}/archive`, { query: { path: "/" }, body });
  }

  async function make(document: ForwardDocument): Promise<Heard> {
    const name = nameOf(agent, deploymentId, `${forwarderSlot}-${randomBytes(3).toString("hex")}`);
    const body = bodyOf(deploymentId, owner);
    const { Id } = await engine.call<{ Id: string }>("POST", "/containers/create", { query: { name }, body });
    try {
      await carryIn(Id, document);
      await engine.call("POST", `/containers/${Id}/start`);
    } catch (error) {
      await removeOne(engine, Id);
      throw error;
    }
    return hear(Id, place.build);
  }

  /** Starts it, or tells it. */
  async function pass(document: ForwardDocument): Promise<void> {
    if (current === undefined) await forwarder.adopt();
    const { id, build } = current ?? {};
    const state = id === undefined ? undefined : await stateOf(engine, id);
    if (state === "running") {
      await carryIn(id ?? "", document);
      await engine.call("POST", `/containers/${id}/kill`, { query: { signal: "HUP" } });
    } else if (state !== undefined && build === place.build) {
      await carryIn(id ?? "", document);
      await engine.call("POST", `/containers/${id}/${state === "paused" ? "unpause" : "start"}`);
    } else {
      await forwarder.end(); // somebody removed it, or it is of another version and does not run
      current = await make(document);
    }
  }

  async function silent(id: string | undefined): Promise<Refusal> {
    const of = { Id: id ?? "none", Config: { Tty: false } };
    const output = await tailOf(engine, of, undefined).catch(() => ""); // it has gone
    const said = output === "" ? "" : `; it wrote:\n${output.slice(-1_000)}`;
    return new Refusal("INTERNAL", `the forwarder's container does not answer${said}`, true);
  }

  const forwarder: Forwarder = {
    alive: () => current?.status !== undefined,
    status: () => current?.status,
    async stored() {
      const found = (await readDurable(file)) ?? (await readDurable(join(otherFolder, "config.json")));
      return found as ForwardDocument | undefined;
    },
    async adopt() {
      await rm(otherFolder, { recursive: true, force: true });
      const worth = ({ Labels, State }: Listed): number =>
        (Labels[labels.forwarder] === place.build ? 2 : 0) + (State === "running" ? 1 : 0);
      const [first, ...others] = (await listed(engine, marks)).sort((a, b) => worth(b) - worth(a)); // C3
      for (const { Id } of others) await removeOne(engine, Id);
      if (first === undefined) return;
      current = hear(first.Id, first.Labels[labels.forwarder] ?? "");
      if (first.State === "running") await heard(current, () => true, adoptLimitMs);
    },
    async tell(document) {
      revision ??= (await forwarder.stored())?.revision ?? 0;
      revision += 1;
      const mine = revision;
      const told = { ...document, revision: mine };
      await makeFolder(folder);
      await writeDurably(file, told); // C1
      crashPoint("forwarder.before-signal");
      const limit = performance.now() + answerLimitMs;
      for (;;) {
        await pass(told);
        const taken = (status: ForwardStatus): boolean => status.revision === mine || status.refused?.revision === mine;
        const answer = await heard(current, taken, askAgainMs);
        if (answer !== undefined) return answer;
        if (performance.now() > limit) throw await silent(current?.id);
      }
    },
    outdated: () => current?.status !== undefined && current.build !== place.build,
    /** The new one runs before the old one ends, and gets the ports as soon as they are free. */
    async renew() {
      const [old, told] = [current, await forwarder.stored()];
      if (old === undefined || told === undefined) return;
      const next = await make(told);
      if ((await heard(next, () => true, answerLimitMs)) === undefined) {
        const refusal = await silent(next.id);
        next.ends.abort();
        await removeOne(engine, next.id);
        throw refusal;
      }
      current = next;
      old.ends.abort();
      await removeOne(engine, old.id);
      await heard(next, ({ closed }) => closed.length === 0, handOverLimitMs);
    },
    async end() {
      forget();
      await removeForwarders(engine, marks);
    },
    async erase() {
      await forwarder.end();
      await rm(otherFolder, { recursive: true, force: true });
      await rm(file, { force: true });
      revision = undefined;
    },
    letGo: forget,
  };
  return forwarder;
}

/** Where there is no place for one: what an agent before left goes on until its deployment goes. */
export function noForwarder(
  deploymentId: string,
  { engine, agent }: Pick<ForwarderOwner, "engine" | "agent">,
  why: string,
): Forwarder {
  const end = (): Promise<void> =>
    removeForwarders(engine, { [labels.agent]: agent, [labels.deployment]: deploymentId });
  return {
    adopt: async () => {},
    alive: () => false,
    status: () => undefined,
    stored: async () => undefined,
    tell: async () => {
      throw unsupported(`this agent has no forwarders: ${why}`);
    },
    outdated: () => false,
    renew: async () => {},
    end,
    erase: end,
    letGo() {},
  };
}

async function listed(engine: Engine, wanted: Readonly<Record<string, string>>): Promise<Listed[]> {
  const filters = filterOf({ ...wanted, [labels.slot]: forwarderSlot });
  return await engine.call("GET", "/containers/json", { query: { all: true, filters } });
}

/** Undefined: there is none. */
async function stateOf(engine: Engine, id: string): Promise<Inspected["State"]["Status"] | undefined> {
  try {
    return (await engine.call<Inspected>("GET", `/containers/${id}/json`)).State.Status;
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return undefined;
    throw error;
  }
}

async function removeOne(engine: Engine, id: string): Promise<void> {
  await gone(engine.call("POST", `/containers/${id}/stop`, { query: { t: stopSeconds } }));
  await gone(engine.call("DELETE", `/containers/${id}`, { query: { force: true, v: true } }));
}
