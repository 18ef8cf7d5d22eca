/**
 * What must hold in every history, whatever fails. The letters are those of
 * tests/faults/README.md and docs/reliability.md:
 *
 *   A  an accepted command is never lost          B  one effect per command
 *   C  at most one in flight per deployment, in order
 *   D  terminal states stay                       E  a stale fence changes nothing
 *   F  recovery within its bound                  G  a cancel converges
 *   H  what is called generation G is the content of generation G
 *   I  nothing is removed that no removal names
 *
 * Looked at with each commit and each effect, so that a violation is told where
 * it happens; F, and the ends of A, G and H, when all is mended. The checker of
 * tests/faults/history judges what calls, agents and hosts told afterwards, since
 * real processes show nothing else; this one sees rows, locks and fences.
 */
import { ResultAck_Disposition } from "@bowline/contract/agent";
import { isInFlight, isTerminal } from "../../services/control-plane/src/commands/index.ts";
import type { Watcher } from "./cluster.ts";
import type { Coverage } from "./coverage.ts";
import type { Effect, Host } from "./host.ts";
import type { Commit, Store } from "./store.ts";
import { dueOf } from "./sweeps.ts";
import type { CommandRow, GenerationRow, SessionRow } from "./tables.ts";

export type Invariant = "A" | "B" | "C" | "D" | "E" | "F" | "G" | "H" | "I";

export interface Violation {
  invariant: Invariant;
  /** Ms since the start. */
  at: number;
  text: string;
}

/** After a restore calls of the lost history are still being answered for so long. */
const answersAfterRestoreMs = 30_000;

export class Checker implements Watcher {
  readonly violations: Violation[] = [];
  readonly accepted = new Set<string>();
  /** Commands whose end a person asked for, and was told so. */
  readonly cancelled = new Set<string>();
  /** Hosts whose agent lies: what they do is not looked at. */
  readonly unsound = new Set<string>();
  orphans = 0;
  readonly #store: Store;
  readonly #coverage: Coverage;
  readonly #hosts: () => readonly Host[];
  /** Contents that a deployment's generation ever had, by `deployment generation`. */
  readonly #contents = new Map<string, Set<string>>();
  readonly #removals = new Set<string>();
  /** The highest generation that was begun, and the last that was made, by `host deployment`. */
  readonly #begun = new Map<string, number>();
  readonly #made = new Map<string, number>();
  /** Hosts whose disk went back: what was under way then may have been done again, a removal since or not. */
  readonly #older = new Set<string>();
  #restoredAt = -Infinity;

  constructor(store: Store, coverage: Coverage, hosts: () => readonly Host[]) {
    this.#store = store;
    this.#coverage = coverage;
    this.#hosts = hosts;
    store.committed = (commit) => this.#committed(commit);
  }

  /** The disk of a host's agent went back in time: its journal may begin again what it had begun. */
  forget(host: string): void {
    this.#older.add(host);
    for (const known of [this.#begun, this.#made])
      for (const key of known.keys()) if (key.startsWith(`${host} `)) known.delete(key);
  }

  /** The database went back: what was accepted since is the documented loss. */
  restored(): void {
    this.#restoredAt = this.#store.now;
    for (const id of this.accepted) if (!this.#store.tables.commands.has(id)) this.accepted.delete(id);
    for (const id of this.cancelled) this.cancelled.delete(id);
  }

  moved: Watcher["moved"] = (tx, before, event, verdict) => {
    this.#coverage.took(before.state, event.kind, verdict.to);
    const session = tx.get("sessions", before.agentId);
    if ("fence" in event) {
      const { attempt, epoch } = event.fence;
      const fits = attempt === before.attempt && epoch === before.boundEpoch && isOpenAt(session, epoch);
      if (!fits)
        this.#violated(
          "E",
          `${before.id}: ${event.kind} of attempt ${attempt}, epoch ${epoch} moved attempt ${before.attempt}, bound to ${before.boundEpoch}`,
        );
    }
    if (event.kind === "claimed" && (!isOpenAt(session, event.epoch) || session?.state !== "SERVING"))
      this.#violated("E", `${before.id} was claimed for epoch ${event.epoch}, which does not serve`);
    const timed = timedEvents[event.kind as keyof typeof timedEvents];
    if (timed === undefined) return;
    // By the transaction's time, as the sweep judges: a moment later another reason may come first.
    const why = dueOf(tx.store.tables, before, tx.now, { silence: true, absence: true });
    if (why === undefined || !timed.includes(why))
      this.#violated("E", `${before.id}: ${event.kind}, though by then it was not due`);
  };

  acknowledged: Watcher["acknowledged"] = (commandId, attempt, disposition) => {
    const recorded =
      disposition === ResultAck_Disposition.RECORDED || disposition === ResultAck_Disposition.ALREADY_RECORDED;
    if (!recorded || this.#isAfterRestore()) return;
    const row = this.#store.tables.commands.get(commandId);
    if (row === undefined || (isInFlight(row.state) && row.attempt === attempt))
      this.#violated("A", `the result of ${commandId}, attempt ${attempt}, was acknowledged and is not recorded`);
  };

  accept: Watcher["accept"] = (wish, { commandId, generation }) => {
    const row = this.#store.tables.commands.get(commandId);
    if (row?.generation === generation) this.accepted.add(commandId);
    else if (!this.#isAfterRestore())
      this.#violated("A", `${commandId} was accepted for ${wish.agentId} and is not there`);
  };

  orphan(): void {
    this.orphans += 1;
    if (!this.#isAfterRestore()) this.#violated("C", "a BLOCKED command had nothing ahead of it");
  }

  effect(effect: Effect): void {
    const { host, deploymentId, generation, content, kind } = effect;
    if (this.unsound.has(host)) return;
    const key = `${host} ${deploymentId}`;
    const which = `${deploymentId} generation ${generation} at ${host}`;
    if (kind === "begun") {
      const under =
        this.#hosts()
          .find((one) => one.name === host)
          ?.under.get(deploymentId) ?? 0;
      if (under > 1) this.#violated("C", `${which} was begun while another one is under way`);
      const highest = this.#begun.get(key) ?? 0;
      if (generation < highest) this.#violated("C", `${which} was begun after generation ${highest}`);
      this.#begun.set(key, Math.max(highest, generation));
    }
    if (kind === "made" && this.#made.get(key) === generation) this.#violated("B", `${which} was made twice`);
    if (kind === "made") this.#made.set(key, generation);
    if (kind === "made" && this.#contents.get(`${deploymentId} ${generation}`)?.has(content) !== true)
      this.#violated("H", `${which} was made of ${content}, which it never was`);
    if (kind === "removed" && !this.#removals.has(`${deploymentId} ${generation}`))
      this.#violated("I", `${which} was removed, and no removal names it`);
  }

  /** When all is mended and time has passed. `late`: what did not come to its end within the bound. */
  final(late: readonly string[], agents: readonly { id: string; host: Host; sound: boolean }[]): void {
    const { commands, deployments, generations } = this.#store.tables;
    for (const text of late) this.#violated("F", text);
    for (const id of this.accepted) {
      const row = commands.get(id);
      if (row === undefined) this.#violated("A", `${id} was accepted and is gone`);
      else if (!isTerminal(row.state))
        this.#violated(this.cancelled.has(id) ? "G" : "A", `${id} is still ${row.state}`);
    }
    for (const row of deployments.values()) {
      const agent = agents.find((one) => one.id === row.agentId);
      const last = [...commands.values()].find(
        (one) => one.deploymentId === row.id && one.generation === row.generation,
      );
      if (agent?.sound !== true || last?.state !== "SUCCEEDED") continue;
      if (row.desired === "ABSENT" && this.#older.has(agent.host.name)) continue;
      const runs = agent.host.running.get(row.id);
      const kept = generations.get(`${row.id} ${row.generation}`);
      if (row.desired === "ABSENT" ? runs !== undefined : runs?.generation !== row.generation || !kept)
        this.#violated("H", `${row.id} generation ${row.generation} has succeeded, and ${JSON.stringify(runs)} runs`);
    }
  }

  #committed({ changed }: Commit): void {
    const touched = new Set<string>();
    for (const { table, id, before, after } of changed) {
      if (table === "commands") {
        this.#command(id, before as CommandRow | undefined, after as CommandRow | undefined);
        touched.add(((after ?? before) as CommandRow).deploymentId);
      } else if (table === "generations") this.#generation(after as GenerationRow);
      else if (table === "sessions") this.#session(after as SessionRow);
    }
    for (const id of touched) this.#deployment(id);
  }

  #command(id: string, before: CommandRow | undefined, after: CommandRow | undefined): void {
    if (after === undefined) return this.#violated("A", `${id} was deleted`);
    if (after.isRemoval) this.#removals.add(`${after.deploymentId} ${after.generation}`);
    if (isInFlight(after.state) && after.boundEpoch !== null) {
      const session = this.#store.tables.sessions.get(after.agentId);
      if (!isOpenAt(session, after.boundEpoch))
        this.#violated(
          "E",
          `${id} is bound to epoch ${after.boundEpoch}; the session is ${session?.epoch} ${session?.state}`,
        );
    }
    if (before === undefined) return;
    const stays =
      before.state === after.state &&
      before.attempt === after.attempt &&
      before.outcomeAttempt === after.outcomeAttempt;
    if (isTerminal(before.state) && !stays) this.#violated("D", `${id} was ${before.state} and became ${after.state}`);
    const grows = after.attempt - before.attempt;
    if (grows !== (before.state === "READY" && after.state === "ASSIGNED" ? 1 : 0))
      this.#violated(
        "E",
        `${id}: attempt ${before.attempt} became ${after.attempt}, from ${before.state} to ${after.state}`,
      );
    if (grows > 0 && this.cancelled.has(id)) this.#violated("G", `${id} was tried again after its cancel`);
  }

  #session(row: SessionRow): void {
    for (const command of this.#store.tables.commands.values()) {
      if (command.agentId !== row.id || command.boundEpoch === null || !isInFlight(command.state)) continue;
      if (!isOpenAt(row, command.boundEpoch))
        this.#violated(
          "E",
          `${command.id} is left bound to epoch ${command.boundEpoch} by session ${row.epoch} ${row.state}`,
        );
    }
  }

  #generation({ id, spec, digest }: GenerationRow): void {
    const contents = this.#contents.get(id) ?? new Set();
    this.#contents.set(id, contents.add(contentOf(spec, digest)));
  }

  #deployment(id: string): void {
    let blocked = 0;
    let ahead = 0;
    for (const row of this.#store.tables.commands.values()) {
      if (row.deploymentId !== id || isTerminal(row.state)) continue;
      if (row.state === "BLOCKED") blocked += 1;
      else ahead += 1;
    }
    if (ahead > 1 || blocked > 1) this.#violated("C", `${id} has ${ahead} commands ahead and ${blocked} that wait`);
    if (blocked > 0 && ahead === 0) this.#violated("C", `what waits for ${id} has nothing ahead of it`);
  }

  #isAfterRestore(): boolean {
    return this.#store.now - this.#restoredAt < answersAfterRestoreMs;
  }

  #violated(invariant: Invariant, text: string): void {
    this.violations.push({ invariant, at: this.#store.now, text });
    this.#store.world.note("VIOLATION", () => `${invariant}: ${text}`);
  }
}

/** Events that time causes, and why a look must have found them due. */
const timedEvents = {
  due: ["due"],
  "time-over": ["deadline", "offline"],
  "run-timeout": ["run-timeout"],
  "cancel-unanswered": ["cancel-unanswered"],
  "unbound-too-long": ["unbound"],
} as const satisfies Record<string, readonly ReturnType<typeof dueOf>[]> as Record<
  string,
  readonly ReturnType<typeof dueOf>[]
>;

function isOpenAt(session: SessionRow | undefined, epoch: number): boolean {
  return session !== undefined && session.epoch === epoch && session.state !== "ENDED";
}

/** What tells a spec from another one. */
function contentOf(spec: Uint8Array, digest: string): string {
  return spec.length === 0 ? digest : (new TextDecoder().decode(spec).match(/content-[0-9]+/)?.[0] ?? "");
}
