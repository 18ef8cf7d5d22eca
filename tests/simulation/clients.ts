/** People and programs that call the API, and repeat what was not answered, with the same key. */
import type { Checker } from "./checker.ts";
import type { Cluster } from "./cluster.ts";
import type { Random } from "./random.ts";
import type { Server } from "./server.ts";
import type { Desired, Limits } from "./tables.ts";
import { cancel, converge, type Enqueued, Refused, retry, type Wish } from "./wishes.ts";
import { isTerminal } from "../../services/control-plane/src/commands/index.ts";

/** A call without an answer is given up after so long, and repeated. */
const answerWithinMs = 5_000;
const tries = 8;

export class Clients {
  readonly #cluster: Cluster;
  readonly #checker: Checker;
  readonly #random: Random;
  readonly #agentIds: readonly string[];
  #calls = 0;
  stopped = false;

  constructor(cluster: Cluster, checker: Checker, random: Random, agentIds: readonly string[]) {
    this.#cluster = cluster;
    this.#checker = checker;
    this.#random = random;
    this.#agentIds = agentIds;
  }

  /** Calls again and again, until `stopped`. */
  run(everyMs: number): void {
    this.#cluster.world.at(this.#random.between(0.1, 2) * everyMs, () => {
      if (this.stopped) return;
      void this.#call();
      this.run(everyMs);
    });
  }

  async #call(): Promise<void> {
    const { commands } = this.#cluster.store.tables;
    const open = [...commands.values()].filter((row) => !isTerminal(row.state));
    const ended = [...commands.values()].filter((row) => row.state === "FAILED" || row.state === "LOST");
    const what = this.#random.weighted([
      [8, "wish"],
      [open.length > 0 ? 2 : 0, "cancel"],
      [ended.length > 0 ? 1 : 0, "retry"],
    ] as const);
    if (what === "cancel") await this.#cancel(this.#random.pick(open).id);
    else if (what === "retry") await this.#retry(this.#random.pick(ended).id);
    else await this.#wish(this.#draw());
  }

  #draw(): Wish {
    const random = this.#random;
    const agentId = random.pick(this.#agentIds);
    const known = [...this.#cluster.store.tables.deployments.values()].filter((row) => row.agentId === agentId);
    const present = known.filter((row) => row.desired !== "ABSENT");
    const old =
      known.length > 0 && (present.length >= 3 || random.chance(0.75))
        ? random.pick(random.chance(0.9) && present.length > 0 ? present : known)
        : undefined;
    const desired: Desired =
      old === undefined
        ? "RUNNING"
        : random.weighted([
            [10, "RUNNING"],
            [2, "STOPPED"],
            [1, "PAUSED"],
            [2, "ABSENT"],
          ] as const);
    this.#calls += 1;
    return {
      ...{ deploymentId: old?.id, agentId, desired, removeVolumes: desired === "ABSENT" && random.chance(0.3) },
      content: `content-${this.#calls}`,
      limits: limitsOf(random),
    };
  }

  /** A call with a key: whatever is repeated, it is one wish. */
  async #wish(wish: Wish): Promise<void> {
    const key = `key-${this.#calls}`;
    const answer = await this.#untilAnswered((replica) => enqueue(this.#cluster, replica, key, wish));
    if (answer === undefined) return;
    this.#cluster.world.note(
      "client",
      () => `${wish.desired} of ${answer.deploymentId} is generation ${answer.generation}, ${answer.commandId}`,
    );
    this.#checker.accept(wish, answer);
  }

  async #cancel(commandId: string): Promise<void> {
    const done = await this.#untilAnswered(async ({ engine }) => {
      await engine.store.transact(engine.process, (tx) => cancel(engine, tx, commandId));
      return true;
    });
    if (done !== true) return;
    this.#cluster.world.note("client", () => `the cancel of ${commandId} was accepted`);
    if (this.#cluster.store.tables.commands.has(commandId)) this.#checker.cancelled.add(commandId);
  }

  async #retry(commandId: string): Promise<void> {
    const { ids } = this.#cluster;
    // Without a key: a repeated one finds COMMAND_OPEN or NEWER_GENERATION.
    await this.#untilAnswered(({ engine }) =>
      engine.store.transact(engine.process, (tx) => retry(engine, tx, ids, commandId)),
    );
  }

  /** Undefined: refused, or given up. */
  async #untilAnswered<T>(call: (replica: Server) => Promise<T>): Promise<T | undefined> {
    const { world, replicas } = this.#cluster;
    for (let attempt = 1; attempt <= tries; attempt += 1) {
      const up = replicas.filter((replica) => replica.process.alive);
      if (up.length > 0) {
        const replica = this.#random.pick(up);
        const answer = await new Promise<{ value: T } | { refused: boolean }>((resolve) => {
          world.at(answerWithinMs, () => resolve({ refused: false }));
          replica.process.after(this.#random.between(1, 20), () => {
            void call(replica).then(
              (value) => world.at(this.#random.between(1, 20), () => resolve({ value })),
              (error: unknown) => resolve({ refused: error instanceof Refused }),
            );
          });
        });
        if ("value" in answer) return answer.value;
        if (answer.refused) return undefined;
      }
      await new Promise<void>((resolve) => world.at(this.#random.between(200, 3_000), resolve));
    }
    return undefined;
  }
}

/** What an API call does in its one transaction. */
async function enqueue(cluster: Cluster, { engine }: Server, key: string, wish: Wish): Promise<Enqueued> {
  let early: ((enqueued: Enqueued) => void) | undefined;
  const answered = new Promise<Enqueued>((resolve) => (early = resolve));
  const done = engine.store.transact(engine.process, async (tx) => {
    await tx.lock("keys", [key]);
    const known = tx.get("keys", key);
    const before = known && tx.get("commands", known.commandId);
    if (before !== undefined)
      return { commandId: before.id, deploymentId: before.deploymentId, generation: before.generation };
    await tx.lock("clusters", ["one"], "share");
    const agent = tx.get("agents", wish.agentId);
    // As slices choose: nothing new goes to one that may not come, nothing at all to one that never does.
    if (agent?.state === "RETIRED" || (wish.deploymentId === undefined && agent?.state !== "ENROLLED"))
      throw new Refused("AGENT_NOT_ENROLLED");
    const enqueued = await converge(engine, tx, cluster.ids, wish);
    tx.put("keys", { id: key, commandId: enqueued.commandId });
    if (!engine.rules.answersAfterCommit) early?.(enqueued);
    return enqueued;
  });
  if (engine.rules.answersAfterCommit) return done;
  done.catch(() => undefined);
  return Promise.race([answered, done]);
}

function limitsOf(random: Random): Limits {
  return {
    maxRetries: random.below(4),
    runTimeoutMs: random.pick([3_000, 15_000, 60_000]),
    graceMs: random.pick([1_000, 10_000]),
    cancelLimitMs: random.pick([2_000, 15_000, 60_000]),
    offlineLifeMs: random.pick([5_000, 30_000, 120_000, 86_400_000]),
    deadlineMs: random.chance(0.2) ? random.between(500, 30_000) : undefined,
  };
}
