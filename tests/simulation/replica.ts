/**
 * A control-plane process: streams in, commands out. sessions/stream.ts,
 * messages.ts, sync.ts, intake.ts, dispatcher.ts and routing.ts of the product,
 * over the simulated store. upkeep.ts has what it does by the clock.
 *
 * Long because a session's life reads in one piece, as in the product.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type AgentMessage,
  CommandReceipt_Disposition,
  type CommandReceipt,
  type DeployResult,
  type FetchDeploymentsRequest,
  ResultAck_Disposition,
  ServerMessageSchema,
  type Sync,
  SyncDecision_Action,
} from "@bowline/contract/agent";
import { createBatcher } from "../../services/control-plane/src/sessions/index.ts";
import type { Assertion } from "./agent.ts";
import { agentsWithReady, cancelling, claim, specFor, unreceipted } from "./claims.ts";
import type { Cluster } from "./cluster.ts";
import type { Engine } from "./engine.ts";
import type { Hint } from "./hints.ts";
import type { End } from "./network.ts";
import { type From, recordReceipts, recordResults, type ResultAnswer } from "./reports.ts";
import { convergeWhatIsLost, endSession, type Opened, openSession, reconcileSync, serveSession } from "./sessions.ts";
import type { CommandRow } from "./tables.ts";
import { type AgentLink, createInbox, type Dialled, refusal } from "./transport.ts";
import { type Live, type Server, silenceLimitMs } from "./server.ts";
import { runUpkeep } from "./upkeep.ts";
import { Process } from "./world.ts";

const window = 16;
const heartbeatIntervalMs = 15_000;
const pollMs = 15_000;
const retryMs = 500;
/** More than a history ever has waiting. */
const bounds = { maxWaiting: 10_000, overloaded: () => new Error("too many reports wait") };

/** What an access token says; the network carries it as it is. */
interface Token {
  agentId: string;
  sessionId: string;
  epoch: number;
}

export class Replica implements Dialled, Server {
  readonly id: string;
  readonly process: Process;
  readonly engine: Engine;
  readonly live = new Map<string, Live>();
  readonly cluster: Cluster;
  readonly #receipts: ReturnType<typeof createBatcher<From<CommandReceipt>, undefined>>;
  readonly #results: ReturnType<typeof createBatcher<From<DeployResult>, ResultAnswer>>;
  readonly #woken = new Set<string>();
  #claiming = false;
  #claimed: Promise<void> = Promise.resolve();

  constructor(cluster: Cluster, id: string) {
    const { world, store, rules, watcher, random } = cluster;
    this.cluster = cluster;
    this.id = id;
    this.process = new Process(world, id);
    const engine: Engine = {
      ...{ store, process: this.process, rules, random: () => random.next() },
      moved: (...args) => watcher.moved(...args),
      signals: {
        wake: (agentIds) => this.#route("wake", agentIds),
        cancel: (agentId, commandId, attempt) => {
          if (this.live.has(agentId)) this.#sendCancel(agentId, commandId, attempt, true);
          else this.#route("tell", [agentId]);
        },
        pushAgain: (agentId, commandId) => {
          const session = this.live.get(agentId);
          if (session === undefined) return this.#route("tell", [agentId]);
          if (session.phase === "serving") void this.#push(agentId, session.epoch, commandId).catch(() => undefined);
        },
        close: (agentId, reason, replicaId) => {
          if (replicaId === undefined) this.live.get(agentId)?.close(reason);
          const owner = replicaId ?? store.tables.sessions.get(agentId)?.replicaId;
          const to = cluster.replicas.find((other) => other.id === owner);
          cluster.hints.send(to, { kind: "look", agentIds: [agentId] });
        },
      },
    };
    this.engine = engine;
    this.#receipts = createBatcher<From<CommandReceipt>, undefined>(async (items) => {
      await store.transact(this.process, (tx) => recordReceipts(engine, tx, items));
      return items.map(() => undefined);
    }, bounds);
    this.#results = createBatcher<From<DeployResult>, ResultAnswer>(async (items) => {
      const answers = await store.transact(this.process, (tx) => recordResults(engine, tx, items));
      return items.map(({ agentId, message: { commandId, attempt } }) => {
        const at = answers.findIndex(
          (one) => one.agentId === agentId && one.commandId === commandId && one.attempt === attempt,
        );
        return answers.splice(at, 1)[0] as ResultAnswer;
      });
    }, bounds);
    runUpkeep(this, () => watcher.orphan());
    this.#pollLater();
  }

  accept(bearer: string, link: () => AgentLink): End<AgentMessage> {
    const inbox = createInbox<AgentMessage>();
    void this.#serve(JSON.parse(bearer) as Assertion, inbox, link);
    return { process: this.process, deliver: inbox.put };
  }

  async fetch(bearer: string, items: FetchDeploymentsRequest["items"]) {
    const claims = JSON.parse(bearer) as Token;
    const deployments = [];
    for (const { commandId, attempt } of items) {
      const found = await specFor(this.engine, { ...claims, commandId, attempt });
      if (found === "expired") throw refusal("SESSION_EXPIRED", Code.Aborted);
      if (found === undefined) deployments.push({ commandId, attempt, reason: "NOT_IN_FLIGHT" });
      else {
        const { row, spec, digest } = found;
        const { deploymentId, generation } = row;
        deployments.push({ commandId, attempt, deploymentId, generation, digest, spec });
      }
    }
    return { deployments };
  }

  hear(hint: Hint): void {
    const here = hint.agentIds.filter((agentId) => this.live.has(agentId));
    if (here.length === 0) return;
    switch (hint.kind) {
      case "wake":
        for (const agentId of here) this.#woken.add(agentId);
        return void this.#dispatch();
      case "tell":
        return void this.#tell(here).catch(() => undefined);
      case "look":
        return void this.endSuperseded(here).catch(() => undefined);
      default:
        hint satisfies never;
    }
  }

  /** Sessions that were ended or superseded elsewhere are let go here. */
  async endSuperseded(agentIds: readonly string[] = [...this.live.keys()]): Promise<void> {
    if (agentIds.length === 0) return;
    const served = new Set([...this.live.values()].filter((session) => session.phase === "serving"));
    const rows = await this.engine.store.look(this.process, ({ sessions }) => new Map(sessions));
    for (const agentId of agentIds) {
      const session = this.live.get(agentId);
      if (session === undefined) continue;
      const row = rows.get(agentId);
      if (row === undefined || ["REVOKED", "RETIRED", "CONFLICT"].includes(row.endReason)) {
        session.close(row?.endReason ?? "REVOKED");
      } else if (row.epoch > session.epoch) {
        session.close("SUPERSEDED", { case: "superseded", value: { epoch: row.epoch } });
      } else if (row.state === "ENDED") session.close(row.endReason);
      else if (row.epoch < session.epoch || (row.state === "SYNCING" && served.has(session))) session.close("RESTORED");
    }
  }

  /** Pushes everything of a session that has no receipt yet. */
  async pushUnreceipted(agentId: string, epoch: number): Promise<void> {
    await this.#push(agentId, epoch);
  }

  async #serve(asserted: Assertion, inbox: ReturnType<typeof createInbox<AgentMessage>>, link: () => AgentLink) {
    const { agentId, counter } = asserted;
    const messages = inbox.messages();
    let session: Live | undefined;
    let reason = "CONNECTION_LOST";
    let opened: Opened | undefined;
    try {
      const first = await messages.next();
      if (first.done === true || first.value.message.case !== "connectRequest") return;
      const greeting = first.value.message.value;
      const sessionId = this.cluster.ids.session();
      opened = await openSession(this.engine, { agentId, counter, replicaId: this.id, sessionId, greeting });
      session = this.#add(opened, inbox, link, (why) => (reason = why));
      const { epoch, incarnation, journalWhole } = opened;
      this.process.note(() => `session of ${agentId}, epoch ${epoch}${journalWhole ? "" : ", another journal"}`);
      session.send({
        case: "connectResponse",
        value: {
          ...{ sessionId, epoch, incarnation, window, heartbeatIntervalMs, silenceLimitMs },
          ...{ accessToken: tokenOf(opened), accessTokenLifeMs: 600_000, protocol: 1 },
        },
      });
      const pages: Sync[] = [];
      for await (const message of messages) {
        if (this.#ended(session)) break;
        session.heardAt = this.process.world.now;
        if (message.message.case === "goodbye") break;
        if (message.message.case !== "sync") await this.#take(session, opened, message.message);
        else {
          pages.push(message.message.value);
          if (message.message.value.last) await this.#finishSync(session, opened, pages.splice(0));
        }
      }
    } catch (error) {
      const told = error instanceof ConnectError ? error : new ConnectError(String(error), Code.Unavailable);
      link().sendDown({ end: true, error: told });
    }
    if (session === undefined || opened === undefined) return;
    session.close(reason);
    if (this.live.get(agentId) === session) this.live.delete(agentId);
    // The database may be away: upkeep ends it later, or the agent's next session does.
    await endSession(this.engine, agentId, opened.epoch, reason).catch(() => undefined);
  }

  #ended(session: Live): boolean {
    return session.phase === "ended";
  }

  #add(
    opened: Opened,
    inbox: ReturnType<typeof createInbox<AgentMessage>>,
    link: () => AgentLink,
    because: (why: string) => void,
  ): Live {
    const { agentId, epoch } = opened;
    const session: Live = {
      ...{ agentId, epoch, phase: "syncing", takes: "everything", heardAt: this.process.world.now },
      pushedRemovals: new Set(),
      cancelsSent: new Set(),
      send: (message) => {
        if (session.phase !== "ended") link().sendDown({ message: create(ServerMessageSchema, { message }) });
      },
      close: (why, last) => {
        if (session.phase === "ended") return;
        because(why);
        this.process.note(() => `session of ${agentId}, epoch ${epoch}, ends: ${why}`);
        if (last !== undefined) session.send(last);
        session.phase = "ended";
        link().sendDown({ end: true });
        inbox.put({ end: true });
      },
    };
    const other = this.live.get(agentId);
    const newer = other !== undefined && other.epoch > epoch ? other : session;
    const older = newer === session ? other : session;
    this.live.set(agentId, newer);
    older?.close("SUPERSEDED", { case: "superseded", value: { epoch: newer.epoch } });
    return session;
  }

  async #finishSync(session: Live, opened: Opened, pages: readonly Sync[]): Promise<void> {
    const { agentId, epoch } = session;
    const journal = pages.flatMap((page) => page.journal);
    const results = pages.flatMap((page) => page.results);
    const decided = await reconcileSync(this.engine, opened, pages);
    if (decided === undefined) return session.close("SUPERSEDED");
    if (decided === "awaiting") {
      if (!(await serveSession(this.engine, agentId, epoch))) return session.close("SUPERSEDED");
      const action = SyncDecision_Action.HOLD;
      session.send({
        case: "syncReply",
        value: {
          decisions: journal.map(({ commandId, attempt }) => ({ commandId, attempt, action })),
          results: results.map(({ commandId, attempt }) => ({
            ...{ commandId, attempt, disposition: ResultAck_Disposition.UNKNOWN },
          })),
          ...{ last: true, awaitingDecision: true },
        },
      });
      session.phase = "serving";
      return;
    }
    if (!(await convergeWhatIsLost(this.engine, this.cluster.ids, opened, pages))) return session.close("SUPERSEDED");
    const acks = await Promise.all(results.map((message) => this.#results.add({ agentId, epoch, message })));
    if (!(await serveSession(this.engine, agentId, epoch))) return session.close("SUPERSEDED");
    if (this.#ended(session)) return;
    const listed = new Set(journal.map((entry) => entry.commandId));
    for (const ack of acks) this.cluster.watcher.acknowledged(ack.commandId, ack.attempt, ack.disposition);
    session.send({
      case: "syncReply",
      value: { decisions: decided.filter((one) => listed.has(one.commandId)), results: acks, last: true },
    });
    session.phase = "serving";
    await this.#push(agentId, epoch);
    this.#wake([agentId]);
  }

  async #take(session: Live, opened: Opened, said: AgentMessage["message"]): Promise<void> {
    const { agentId, epoch } = session;
    const message = this.cluster.tamper(agentId, said);
    switch (message.case) {
      case "heartbeat":
        if (session.takes !== "everything") {
          session.takes = (message.value.capacity?.placesFree ?? 0) > 0 ? "everything" : "removals";
          this.#wake([agentId]);
        }
        return session.send({ case: "heartbeatAck", value: { number: message.value.number } });
      case "commandReceipt": {
        const { commandId, disposition } = message.value;
        this.process.note(() => `receipt of ${agentId}: ${commandId} ${CommandReceipt_DispositionName(disposition)}`);
        if (disposition === CommandReceipt_Disposition.NOT_NOW) {
          const removal = session.pushedRemovals.has(commandId);
          session.takes = removal || session.takes === "nothing" ? "nothing" : "removals";
          await this.#claimed;
        }
        session.pushedRemovals.delete(commandId);
        return this.#receipts.add({ agentId, epoch, message: message.value }).catch(() => undefined); // asked for again
      }
      case "deployResult": {
        const { value } = message;
        this.process.note(() => `result of ${agentId}: ${value.commandId} attempt ${value.attempt} ${value.outcome}`);
        void this.#results.add({ agentId, epoch, message: value }).then(
          ({ commandId, attempt, disposition }) => {
            this.cluster.watcher.acknowledged(commandId, attempt, disposition);
            session.send({ case: "resultAck", value: { commandId, attempt, disposition } });
          },
          () => undefined, // the agent repeats it
        );
        return;
      }
      case "tokenRequest":
        return session.send({
          case: "sessionToken",
          value: { accessToken: tokenOf(opened), accessTokenLifeMs: 600_000 },
        });
      default:
        return;
    }
  }

  #route(kind: "wake" | "tell", agentIds: readonly string[]): void {
    const away = agentIds.filter((agentId) => !this.live.has(agentId));
    this.hear({ kind, agentIds });
    for (const agentId of away) {
      const owner = this.engine.store.tables.sessions.get(agentId)?.replicaId;
      this.cluster.hints.send(
        this.cluster.replicas.find((other) => other.id === owner && other.process.alive),
        { kind, agentIds: [agentId] },
      );
    }
  }

  #wake(agentIds: readonly string[]): void {
    this.hear({ kind: "wake", agentIds });
  }

  async #tell(agentIds: readonly string[]): Promise<void> {
    await this.#sendCancels(agentIds);
    for (const agentId of agentIds) {
      const session = this.live.get(agentId);
      if (session?.phase === "serving") await this.#push(agentId, session.epoch);
    }
  }

  #sendCancel(agentId: string, commandId: string, attempt: number, again: boolean): void {
    const session = this.live.get(agentId);
    if (session?.phase !== "serving") return;
    const which = `${commandId} ${attempt}`;
    if (session.cancelsSent.has(which) && !again) return;
    session.cancelsSent.add(which);
    session.send({ case: "cancelCommand", value: { commandId, attempt } });
  }

  async #sendCancels(agentIds?: readonly string[]): Promise<void> {
    for (const row of await cancelling(this.engine.store, this.process, this.id, agentIds))
      if (this.live.get(row.agentId)?.epoch === row.boundEpoch)
        this.#sendCancel(row.agentId, row.id, row.attempt, false);
  }

  async #push(agentId: string, epoch: number, commandId?: string): Promise<void> {
    for (const row of await unreceipted(this.engine.store, this.process, agentId, epoch, commandId)) this.#send(row);
  }

  #send(row: CommandRow): void {
    const session = this.live.get(row.agentId);
    if (session?.phase !== "serving" || session.epoch !== row.boundEpoch) return;
    if (row.reduces) session.pushedRemovals.add(row.id);
    const { id: commandId, deploymentId, generation, digest, attempt, limits, reduces } = row;
    this.process.note(() => `pushes ${commandId} attempt ${attempt} (${deploymentId} generation ${generation})`);
    const { runTimeoutMs } = limits;
    const value = { commandId, deploymentId, generation, digest, attempt, runTimeoutMs, reduces };
    session.send({ case: "deployCommand", value });
  }

  #pollLater(): void {
    this.process.after(pollMs * this.cluster.random.between(0.85, 1.15), () => {
      void this.#poll().catch(() => undefined);
      this.#pollLater();
    });
  }

  async #poll(): Promise<void> {
    const ready = await agentsWithReady(this.engine.store, this.process, this.id);
    this.#wake(ready);
    await this.#sendCancels();
  }

  /** One at a time; goes on while something was claimed. */
  async #dispatch(): Promise<void> {
    if (this.#claiming) return;
    this.#claiming = true;
    while (this.#woken.size > 0) {
      const agentIds = [...this.#woken];
      this.#woken.clear();
      try {
        const round = this.#round(agentIds);
        this.#claimed = round.catch(() => undefined);
        await round;
      } catch {
        for (const agentId of agentIds) this.#woken.add(agentId);
        await this.process.wait(retryMs);
      }
    }
    this.#claiming = false;
  }

  async #round(agentIds: readonly string[]): Promise<void> {
    const claimants = agentIds.flatMap((agentId) => {
      const session = this.live.get(agentId);
      if (session?.phase !== "serving" || session.takes === "nothing") return [];
      return [{ agentId, epoch: session.epoch, window, onlyReducing: session.takes === "removals" }];
    });
    const { store } = this.engine;
    const ready = await store.look(this.process, ({ commands }) =>
      claimants.filter((one) =>
        [...commands.values()].some((row) => row.agentId === one.agentId && row.state === "READY"),
      ),
    );
    if (ready.length === 0) return;
    const claimed = await store.transact(this.process, async (tx) => {
      await tx.statement();
      return claim(this.engine, tx, ready);
    });
    for (const row of claimed) {
      this.#send(row);
      this.#woken.add(row.agentId);
    }
  }
}

function tokenOf({ agentId, sessionId, epoch }: Opened): string {
  return JSON.stringify({ agentId, sessionId, epoch } satisfies Token);
}

function CommandReceipt_DispositionName(disposition: CommandReceipt_Disposition): string {
  return Object.entries(CommandReceipt_Disposition).find(([, value]) => value === disposition)?.[0] ?? "?";
}
