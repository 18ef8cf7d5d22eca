/**
 * A database as the engine sees it: transactions that read what is committed,
 * row locks that are waited for in order, commits one after another.
 *
 * D1: what a transaction wrote is seen by others after its commit, all at once,
 *     and never if its connection dies before COMMIT was sent.
 * D2: a statement sees what was committed when it began (READ COMMITTED); one
 *     that waited for a lock sees the locked row as it is then.
 * D3: COMMIT is one step at the database. Whoever sent it may die, or lose the
 *     answer, before or after.
 * D4: two transactions that wait for each other are a deadlock, of which the one
 *     that came last is told.
 *
 * Long because locks, visibility and commits are one thing seen from three sides.
 */
import type { Random } from "./random.ts";
import { emptyTables, type Rows, snapshotOf, type Table, type Tables } from "./tables.ts";
import type { Process, World } from "./world.ts";

/** As `isDatabaseAway` of the control plane: the connection, or the server behind it, is gone. */
export class DatabaseAway extends Error {}
/** COMMIT was sent and not answered. */
export class CommitUnknown extends Error {}
class Deadlock extends Error {}

type Mode = "share" | "update";
interface Lock {
  holders: Map<Tx, Mode>;
  waiting: { tx: Tx; mode: Mode; grant: () => void }[];
}

/** One commit, for the checker. */
export interface Commit {
  number: number;
  /** Keys as `table id`, with the row before. */
  changed: readonly { table: Table; id: string; before: object | undefined; after: object | undefined }[];
}

const attempts = 3;

export class Store {
  tables: Tables = emptyTables();
  readonly world: World;
  readonly random: Random;
  up = true;
  commits = 0;
  deadlocks = 0;
  sequence = 0;
  /** Told of each commit, right after it. */
  committed: ((commit: Commit) => void) | undefined;
  /** Decides about the next COMMIT of a process: a fault of the history. */
  commitFault: ((process: Process) => "before" | "lost" | "after" | undefined) | undefined;
  readonly #locks = new Map<string, Lock>();
  readonly #open = new Set<Tx>();
  /** Whether commits are kept for a restore. */
  keeps = false;
  readonly #snapshots: { at: number; tables: Tables }[] = [];

  constructor(world: World, random: Random) {
    this.world = world;
    this.random = random;
  }

  /** The database's clock. */
  get now(): number {
    return this.world.now;
  }

  /** A statement outside a transaction, which only reads. */
  async look<T>(process: Process, read: (tables: Tables) => T): Promise<T> {
    await process.wait(this.latency());
    if (!this.up) throw new DatabaseAway("the database is away");
    return read(this.tables);
  }

  /** A statement of its own, which writes one row without a lock that anybody waits for. */
  async write<T extends Table>(process: Process, table: T, row: () => Rows[T]): Promise<void> {
    await process.wait(this.latency());
    if (!this.up) throw new DatabaseAway("the database is away");
    const made = row();
    (this.tables[table] as Map<string, Rows[T]>).set(made.id, made);
  }

  /** Runs `body` in one transaction, as platform/transactions.ts does. */
  async transact<T>(process: Process, body: (tx: Tx) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      const tx = new Tx(this, process);
      this.#open.add(tx);
      const forget = process.atDeath(() => {
        if (!tx.sent) this.#end(tx); // D3
      });
      try {
        await tx.statement();
        const value = await body(tx);
        await this.#commit(tx);
        for (const effect of tx.effects) effect();
        return value;
      } catch (error) {
        this.#end(tx);
        if (error instanceof Deadlock && attempt < attempts) continue;
        throw error;
      } finally {
        forget();
      }
    }
  }

  /** Everything that is connected is not any more; what was not committed never was. */
  cutConnections(): void {
    for (const tx of this.#open) this.#end(tx);
  }

  /** Back to how things were, so long ago; a little earlier where they were as `rather` then. Returns that time. */
  restore(agoMs: number, rather: (then: Tables) => boolean): number | undefined {
    const before = this.world.now - agoMs;
    const found =
      this.#snapshots.findLast((one) => one.at <= before && rather(one.tables)) ??
      this.#snapshots.findLast((one) => one.at <= before) ??
      this.#snapshots[0];
    if (found === undefined) return undefined;
    this.cutConnections();
    this.tables = snapshotOf(found.tables);
    return found.at;
  }

  latency(): number {
    return this.random.chance(0.02) ? this.random.between(20, 400) : this.random.between(0.3, 3);
  }

  /** Takes the lock, or waits for it; rejects with a deadlock. */
  lock(tx: Tx, key: string, mode: Mode): Promise<void> {
    const lock: Lock = this.#locks.get(key) ?? { holders: new Map(), waiting: [] };
    this.#locks.set(key, lock);
    const held = lock.holders.get(tx);
    if (held === "update" || held === mode) return Promise.resolve();
    if (this.#fits(lock, tx, mode) && lock.waiting.length === 0) {
      lock.holders.set(tx, mode);
      tx.locks.add(key);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const entry = { tx, mode, grant: () => tx.process.after(0, resolve) };
      // A holder that wants more goes first: it can't let go before.
      if (held === undefined) lock.waiting.push(entry);
      else lock.waiting.unshift(entry);
      tx.waitsFor = key;
      tx.reject = reject;
      if (!this.#waitsForItself(tx)) return;
      this.deadlocks += 1;
      lock.waiting = lock.waiting.filter((one) => one !== entry);
      tx.waitsFor = undefined;
      reject(new Deadlock(`deadlock on ${key}`)); // D4
    });
  }

  /** Whether nobody else holds it. For SKIP LOCKED. */
  isFree(tx: Tx, key: string): boolean {
    const lock = this.#locks.get(key);
    return lock === undefined || (this.#fits(lock, tx, "update") && lock.waiting.length === 0);
  }

  async #commit(tx: Tx): Promise<void> {
    const fault = this.commitFault?.(tx.process);
    if (fault === "before") {
      tx.process.kill();
      return new Promise(() => undefined);
    }
    const answered = await new Promise<boolean>((resolve, reject) => {
      // D3: from here on it is the database's.
      const sent = this.latency();
      tx.sent = true;
      this.world.at(sent, () => {
        if (!this.#open.has(tx))
          return tx.process.after(0, () => reject(new CommitUnknown("the connection was lost at COMMIT")));
        this.#apply(tx);
        if (fault === "after") return tx.process.kill();
        tx.process.after(this.latency(), () => resolve(fault !== "lost"));
      });
    });
    if (!answered) throw new CommitUnknown("the connection was lost at COMMIT");
  }

  #apply(tx: Tx): void {
    const changed: { table: Table; id: string; before: object | undefined; after: object | undefined }[] = [];
    for (const { table, id, row } of tx.writes.values()) {
      const rows = this.tables[table] as Map<string, object>;
      changed.push({ table, id, before: rows.get(id), after: row });
      if (row === undefined) rows.delete(id);
      else rows.set(id, row);
    }
    this.#end(tx);
    if (changed.length === 0) return;
    this.commits += 1;
    if (this.keeps) this.#snapshots.push({ at: this.world.now, tables: snapshotOf(this.tables) });
    this.committed?.({ number: this.commits, changed });
  }

  /** Lets go of its locks; whoever waited gets them, in order. */
  #end(tx: Tx): void {
    if (!this.#open.delete(tx)) return;
    if (tx.waitsFor !== undefined) {
      const lock = this.#locks.get(tx.waitsFor);
      if (lock !== undefined) lock.waiting = lock.waiting.filter((one) => one.tx !== tx);
      tx.waitsFor = undefined;
      tx.process.after(0, () => tx.reject?.(new DatabaseAway("the connection was lost")));
    }
    for (const key of tx.locks) {
      const lock = this.#locks.get(key);
      if (lock === undefined) continue;
      lock.holders.delete(tx);
      this.#grant(key, lock);
    }
    tx.ended = true;
  }

  #grant(key: string, lock: Lock): void {
    for (
      let next = lock.waiting[0];
      next !== undefined && this.#fits(lock, next.tx, next.mode);
      next = lock.waiting[0]
    ) {
      lock.waiting.shift();
      lock.holders.set(next.tx, next.mode);
      next.tx.locks.add(key);
      next.tx.waitsFor = undefined;
      next.grant();
    }
    if (lock.holders.size === 0 && lock.waiting.length === 0) this.#locks.delete(key);
  }

  #fits(lock: Lock, tx: Tx, mode: Mode): boolean {
    for (const [holder, held] of lock.holders)
      if (holder !== tx && (mode === "update" || held === "update")) return false;
    return true;
  }

  #waitsForItself(start: Tx): boolean {
    const seen = new Set<Tx>();
    const ahead = (tx: Tx): boolean => {
      const lock = tx.waitsFor === undefined ? undefined : this.#locks.get(tx.waitsFor);
      if (lock === undefined) return false;
      const at = lock.waiting.findIndex((one) => one.tx === tx);
      const blockers = [...lock.holders.keys(), ...lock.waiting.slice(0, Math.max(0, at)).map((one) => one.tx)];
      for (const other of blockers) {
        if (other === tx) continue;
        if (other === start) return true;
        if (seen.has(other)) continue;
        seen.add(other);
        if (ahead(other)) return true;
      }
      return false;
    };
    return ahead(start);
  }
}

export class Tx {
  readonly store: Store;
  readonly process: Process;
  readonly locks = new Set<string>();
  readonly writes = new Map<string, { table: Table; id: string; row: object | undefined }>();
  readonly effects: (() => void)[] = [];
  /** When it began: `now()` of its statements. */
  readonly now: number;
  waitsFor: string | undefined;
  reject: ((error: unknown) => void) | undefined;
  sent = false;
  ended = false;

  constructor(store: Store, process: Process) {
    this.store = store;
    this.process = process;
    this.now = store.now;
  }

  /** Time for one statement. Rejects where the connection is gone. */
  async statement(): Promise<void> {
    // Half of them take no time, so that a history has more of everything else; which ones is drawn.
    if (this.store.random.chance(0.5)) await this.process.wait(this.store.latency());
    this.#alive();
  }

  /** Locks these rows in order of id, and lets the statement that did see what is committed (D2). */
  async lock(table: Table, ids: Iterable<string>, mode: Mode = "update"): Promise<void> {
    await this.statement();
    for (const id of [...new Set(ids)].toSorted()) {
      await this.store.lock(this, `${table} ${id}`, mode);
      this.#alive();
    }
  }

  get<T extends Table>(table: T, id: string): Rows[T] | undefined {
    const own = this.writes.get(`${table} ${id}`);
    return own === undefined
      ? (this.store.tables[table].get(id) as Rows[T] | undefined)
      : (own.row as Rows[T] | undefined);
  }

  /** All rows, own writes included. `at`: as a statement that began earlier sees them. */
  all<T extends Table>(table: T, at: Tables = this.store.tables): Rows[T][] {
    const committed = at[table] as Map<string, Rows[T]>;
    if (this.writes.size === 0) return [...committed.values()];
    const rows = new Map(committed);
    for (const { table: where, id, row } of this.writes.values()) {
      if (where !== table) continue;
      if (row === undefined) rows.delete(id);
      else rows.set(id, row as Rows[T]);
    }
    return [...rows.values()];
  }

  put<T extends Table>(table: T, row: Rows[T]): void {
    this.#alive();
    this.writes.set(`${table} ${row.id}`, { table, id: row.id, row });
  }

  patch<T extends Table>(table: T, id: string, patch: Partial<Rows[T]>): Rows[T] | undefined {
    const row = this.get(table, id);
    if (row === undefined) return undefined;
    const after = { ...row, ...patch };
    this.put(table, after);
    return after;
  }

  delete(table: Table, id: string): void {
    this.#alive();
    this.writes.set(`${table} ${id}`, { table, id, row: undefined });
  }

  /** Runs `effect` after the commit. */
  after(effect: () => void): void {
    this.effects.push(effect);
  }

  #alive(): void {
    if (this.ended || !this.store.up) throw new DatabaseAway("the database is away");
  }
}
