/**
 * What lies between agents and replicas. A link carries one stream: each way in
 * order, never twice; a link that is cut loses what is under way, and each end
 * notices in its own time; one that is deaf loses everything and nobody notices.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Random } from "./random.ts";
import type { Process } from "./world.ts";

/** `end`: the last frame of a way; with an error where the call failed. */
export type Frame<Message> = { message: Message } | { end: true; error?: unknown };

export interface End<Message> {
  process: Process;
  deliver(frame: Frame<Message>): void;
}

/** A stream between an agent and a replica; each end is told what comes to it. */
export class Link<Up, Down> {
  readonly agent: string;
  deaf = false;
  readonly #net: Network;
  readonly #up: End<Up>;
  readonly #down: End<Down>;
  readonly #freeAt = { up: 0, down: 0 };
  #over = false;

  constructor(net: Network, agent: string, server: End<Up>, client: End<Down>) {
    this.#net = net;
    this.agent = agent;
    this.#up = server;
    this.#down = client;
    net.links.add(this);
    // The machine closes the sockets of a process that has died.
    server.process.atDeath(() => this.cut());
    client.process.atDeath(() => this.cut());
  }

  sendUp(frame: Frame<Up>): void {
    this.#send("up", this.#up, frame);
  }

  /** After its end nothing goes either way. */
  sendDown(frame: Frame<Down>): void {
    this.#send("down", this.#down, frame);
  }

  /** What is under way is lost; both ends notice, each in its own time. */
  cut(): void {
    if (this.#over) return;
    this.#forget();
    if (this.deaf) return; // nor does this come through
    const error = new ConnectError("the connection was cut", Code.Unavailable);
    this.#up.process.after(this.#net.latency(this.agent), () => this.#up.deliver({ end: true, error }));
    this.#down.process.after(this.#net.latency(this.agent), () => this.#down.deliver({ end: true, error }));
  }

  #forget(): void {
    this.#over = true;
    this.#net.links.delete(this);
  }

  #send<Message>(way: "up" | "down", to: End<Message>, frame: Frame<Message>): void {
    const { world } = to.process;
    const at = Math.max(this.#freeAt[way], world.now + this.#net.latency(this.agent)); // in order
    this.#freeAt[way] = at;
    to.process.after(at - world.now, () => {
      if (this.#over || this.deaf) return;
      if ("end" in frame && way === "down") this.#forget();
      to.deliver(frame);
    });
  }
}

export class Network {
  readonly links = new Set<Pick<Link<unknown, unknown>, "agent" | "deaf" | "cut">>();
  /** Agents that reach nobody now. */
  readonly unreached = new Set<string>();
  /** Agents whose way is slow, by how much. */
  readonly slowed = new Map<string, number>();
  /** Agents whose unary calls get no answer, though streams pass. */
  readonly mute = new Set<string>();
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  latency(agent: string): number {
    const base = this.#random.chance(0.03) ? this.#random.between(100, 1_500) : this.#random.between(2, 30);
    return base * (this.slowed.get(agent) ?? 1);
  }

  /** What is open of an agent goes on being open at both ends, and carries nothing. */
  deafen(agent: string): void {
    for (const link of this.links) if (link.agent === agent) link.deaf = true;
  }

  cut(agent: string): void {
    for (const link of this.links) if (link.agent === agent) link.cut();
  }
}
