/**
 * What survives a crash of the agent: an append-only log, one record per line
 * with a checksum, fsynced before anything that depends on it happens.
 *
 * J1: a command is journalled before its receipt is sent and before it starts.
 * J2: a result is journalled before it is sent, and repeated until acknowledged.
 * J3: the generation of a deployment never goes down.
 * J4: a torn tail (a crash while writing) costs the record that was not
 *     acknowledged yet, and nothing before it. Damage before the tail is
 *     reported, and what can be read is kept.
 *
 * Specs are kept as they came: secrets in them are sealed. journal-file.ts is the
 * disk. Long because the records, what they add up to and when they are written
 * must agree in every line.
 */
import { crc32 } from "node:zlib";
import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { type DeployResult, DeployResultSchema } from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import { type JournalFile, journalFile } from "./journal-file.ts";

/** A command that the agent has taken and whose result is not journalled yet. */
export interface JournalledCommand {
  commandId: string;
  attempt: number;
  deploymentId: string;
  generation: number;
  digest: string;
  productPublishId: string;
  runTimeoutMs: number;
  reduces: boolean;
  /** A `Deployment`, the bytes that the server stored. */
  spec: Uint8Array;
  /** How often it was started; the third start of an attempt is reported instead of run. */
  starts: number;
  /** W3C traceparent of its enqueue; unset: it is not traced. */
  traceParent?: string;
}

/** The last generation that a deployment converged to. */
export interface GoodGeneration {
  deploymentId: string;
  generation: number;
  digest: string;
  spec: Uint8Array;
  /** When it first converged, ms since 1970: older attachments win ties. */
  sinceMs: number;
}

/** `polls`: 1 where the last session that was greeted polled. */
export type JournalNumber = "observation" | "epoch" | "incarnation" | "polls";

export interface Journal {
  readonly id: string;
  /** How often this journal was opened. */
  readonly counter: number;
  /** Commands in flight, in the order in which they were received. */
  inFlight(): readonly JournalledCommand[];
  /** J1. Resolves when it is on the disk. */
  receive(commands: readonly JournalledCommand[]): Promise<void>;
  /** Counts a start and returns how many there were, this one included. */
  start(commandId: string): Promise<number>;
  /** J2. Takes the command out of flight. `good`: what the deployment has converged to; `removed`: nothing of it is left. */
  finish(result: DeployResult, then?: { good?: GoodGeneration; removed?: string }): Promise<void>;
  /** Drops a command that will not be run, without a result. */
  drop(commandId: string): Promise<void>;
  /** Results that were not acknowledged. */
  unacknowledged(): readonly DeployResult[];
  /** The server has it, or wants it no more. Remembered as done for seven days. */
  acknowledge(commandId: string, attempt: number): Promise<void>;
  /** The outcome of this attempt, if it has ended here. */
  outcomeOf(commandId: string, attempt: number): DeployResult | undefined;
  /** The highest generation that was journalled (J3), with its digest. */
  highest(deploymentId: string): { generation: number; digest: string } | undefined;
  /** Of every deployment that was ever here, removed ones too. */
  allHighest(): Iterable<[deploymentId: string, highest: { generation: number; digest: string }]>;
  /** Last good generations of everything that is not removed. */
  good(): readonly GoodGeneration[];
  goodOf(deploymentId: string): GoodGeneration | undefined;
  /** Numbers for the counter of observations and the highest epoch: kept so that they only grow. */
  number(name: JournalNumber): number;
  setNumber(name: JournalNumber, value: number): Promise<void>;
  close(): Promise<void>;
}

type Record =
  | { t: "open"; id: string; counter: number }
  | { t: "received"; command: Omit<JournalledCommand, "spec"> & { spec: string } }
  | { t: "started"; id: string }
  | { t: "result"; at: number; result: JsonValue; acknowledged?: boolean }
  | { t: "dropped"; id: string }
  | { t: "acknowledged"; id: string; attempt: number }
  | { t: "good"; good: Omit<GoodGeneration, "spec"> & { spec: string } }
  | { t: "removed"; id: string }
  | { t: "highest"; id: string; generation: number; digest: string }
  | { t: "number"; name: string; value: number };

/** A repeated push is answered from the journal for this long (commands.md). */
const keepDoneMs = 7 * 86_400_000;
/** Rewritten when the log has grown beyond this and beyond twice what it held when it was last written anew. */
const compactAboveBytes = 4 * 1024 * 1024;

export interface JournalLog {
  warn(fields: object, message: string): void;
}

/** Opens the journal in `folder`, making it if there is none. Another process on the same folder is the caller's to keep out. */
export async function openJournal(folder: string, log: JournalLog, now: () => number = Date.now): Promise<Journal> {
  return openJournalFile(journalFile(folder), log, now);
}

/** Opens the journal that `file` keeps. */
export async function openJournalFile(file: JournalFile, log: JournalLog, now: () => number): Promise<Journal> {
  const state = new State(now);
  const kept = file.read();
  if (kept !== undefined) state.replay(kept, log);
  state.apply({ t: "open", id: state.id === "" ? newId("journal") : state.id, counter: state.counter + 1 });
  let size = await file.replace(linesOf(state));
  let compactAt = Math.max(compactAboveBytes, 2 * size);
  /** A write failed half-way (a full disk): what it left would spoil the line behind it. */
  let spoiled = false;

  // Records of many callers share an fsync: while one is under way the next ones gather.
  let waiting: { text: string; resolve: () => void; reject: (error: unknown) => void }[] = [];
  let writing: Promise<void> | undefined;

  async function flush(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting;
      waiting = [];
      try {
        if (spoiled) await writeAnew();
        const text = batch.map((entry) => entry.text).join("");
        spoiled = true;
        await file.append(text);
        spoiled = false;
        size += Buffer.byteLength(text);
      } catch (error) {
        for (const entry of batch) entry.reject(error);
        continue;
      }
      // Before the log is written anew: what is in memory is all that is kept then.
      for (const entry of batch) entry.resolve();
      if (size > compactAt) {
        await writeAnew().catch((error: unknown) => {
          spoiled = true; // What was there still is; the next write tries again first.
          log.warn({ error: String(error) }, "the journal could not be compacted");
        });
      }
    }
    writing = undefined;
  }

  async function writeAnew(): Promise<void> {
    size = await file.replace(linesOf(state));
    compactAt = Math.max(compactAboveBytes, 2 * size);
    spoiled = false;
  }

  /** On the disk first, then in memory: what memory says has happened is what a restart will find. */
  function append(...records: Record[]): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      waiting.push({
        text: records.map(lineOf).join(""),
        resolve: () => {
          for (const record of records) state.apply(record);
          resolve();
        },
        reject,
      });
      writing ??= flush();
    });
  }

  return {
    get id() {
      return state.id;
    },
    get counter() {
      return state.counter;
    },
    inFlight: () => [...state.commands.values()],
    receive: (commands) =>
      append(
        ...commands.flatMap((command): Record[] => [
          { t: "received", command: { ...command, spec: base64(command.spec) } },
          { t: "highest", id: command.deploymentId, generation: command.generation, digest: command.digest },
        ]),
      ),
    async start(commandId) {
      await append({ t: "started", id: commandId });
      return state.commands.get(commandId)?.starts ?? 0;
    },
    finish: (result, then = {}) =>
      append(
        { t: "result", at: now(), result: toJson(DeployResultSchema, result) },
        ...(then.good === undefined
          ? []
          : [{ t: "good" as const, good: { ...then.good, spec: base64(then.good.spec) } }]),
        ...(then.removed === undefined ? [] : [{ t: "removed" as const, id: then.removed }]),
      ),
    drop: (commandId) => append({ t: "dropped", id: commandId }),
    unacknowledged: () => [...state.results.values()].filter((done) => !done.acknowledged).map((done) => done.result),
    acknowledge: (commandId, attempt) => append({ t: "acknowledged", id: commandId, attempt }),
    outcomeOf: (commandId, attempt) => state.results.get(keyOf(commandId, attempt))?.result,
    highest: (deploymentId) => state.highest.get(deploymentId),
    allHighest: () => state.highest.entries(),
    good: () => [...state.good.values()],
    goodOf: (deploymentId) => state.good.get(deploymentId),
    number: (name) => state.numbers.get(name) ?? 0,
    setNumber: (name, value) => append({ t: "number", name, value }),
    async close() {
      await writing;
      await file.close();
    },
  };
}

/** What the records add up to. */
class State {
  id = "";
  counter = 0;
  readonly commands = new Map<string, JournalledCommand>();
  readonly results = new Map<string, { at: number; result: DeployResult; acknowledged: boolean }>();
  readonly good = new Map<string, GoodGeneration>();
  readonly highest = new Map<string, { generation: number; digest: string }>();
  readonly numbers = new Map<string, number>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  apply(record: Record): void {
    switch (record.t) {
      case "open":
        this.id = record.id;
        this.counter = record.counter;
        return;
      case "received":
        this.commands.set(record.command.commandId, {
          ...record.command,
          spec: Buffer.from(record.command.spec, "base64"),
        });
        return;
      case "started": {
        const command = this.commands.get(record.id);
        if (command !== undefined) command.starts += 1;
        return;
      }
      case "result": {
        const result = fromJson(DeployResultSchema, record.result, { ignoreUnknownFields: true });
        this.results.set(keyOf(result.commandId, result.attempt), {
          at: record.at,
          result,
          acknowledged: record.acknowledged ?? false,
        });
        if (this.commands.get(result.commandId)?.attempt === result.attempt) this.commands.delete(result.commandId);
        return;
      }
      case "dropped":
        this.commands.delete(record.id);
        return;
      case "acknowledged": {
        const done = this.results.get(keyOf(record.id, record.attempt));
        if (done !== undefined) done.acknowledged = true;
        return;
      }
      case "good":
        this.good.set(record.good.deploymentId, { ...record.good, spec: Buffer.from(record.good.spec, "base64") });
        return;
      case "removed":
        this.good.delete(record.id);
        return;
      case "highest":
        if (record.generation >= (this.highest.get(record.id)?.generation ?? 0)) {
          this.highest.set(record.id, { generation: record.generation, digest: record.digest }); // J3
        }
        return;
      case "number":
        this.numbers.set(record.name, record.value);
        return;
      default:
        record satisfies never; // of a newer agent: skipped
    }
  }

  /** The records that make this state again; what is done and older than seven days is left out. */
  *records(): Generator<Record> {
    yield { t: "open", id: this.id, counter: this.counter };
    for (const [id, { generation, digest }] of this.highest) yield { t: "highest", id, generation, digest };
    for (const [name, value] of this.numbers) yield { t: "number", name, value };
    for (const good of this.good.values()) yield { t: "good", good: { ...good, spec: base64(good.spec) } };
    for (const { at, result, acknowledged } of this.results.values()) {
      if (acknowledged && this.#now() - at > keepDoneMs) continue;
      yield { t: "result", at, result: toJson(DeployResultSchema, result), acknowledged };
    }
    for (const command of this.commands.values())
      yield { t: "received", command: { ...command, spec: base64(command.spec) } };
  }

  /** J4. */
  replay(bytes: Buffer, log: JournalLog): void {
    const lines = bytes.toString("utf8").split("\n");
    let damaged = 0;
    for (const [index, line] of lines.entries()) {
      if (line === "") continue;
      const record = recordOf(line);
      if (record !== undefined && this.#applies(record)) continue;
      if (index < lines.length - 1) damaged += 1; // the last one is a torn tail
    }
    if (damaged > 0) log.warn({ damaged }, "the journal has damaged records; what could be read is kept");
  }

  #applies(record: Record): boolean {
    try {
      this.apply(record);
      return true;
    } catch {
      return false; // Whole, but not what this build can read; counted as damage.
    }
  }
}

function keyOf(commandId: string, attempt: number): string {
  return `${commandId} ${attempt}`;
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}

function lineOf(record: Record): string {
  const text = JSON.stringify(record);
  return `${crc32(text).toString(16).padStart(8, "0")} ${text}\n`;
}

function recordOf(line: string): Record | undefined {
  const text = line.slice(9);
  if (line[8] !== " " || crc32(text).toString(16).padStart(8, "0") !== line.slice(0, 8)) return undefined;
  try {
    return JSON.parse(text) as Record;
  } catch {
    return undefined; // a checksum that fits by chance
  }
}

function* linesOf(state: State): Generator<string> {
  for (const record of state.records()) yield lineOf(record);
}
