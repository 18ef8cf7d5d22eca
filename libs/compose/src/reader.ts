/** Reads values out of a mapping; what cannot be read goes to the report, with its place. */
import { Unreadable } from "./unreadable.ts";
import type { ComposeReason } from "./reasons.ts";
import type { Path, Place, Report } from "./report.ts";
import { textOf, type Mapping, type Scalar, type Sequence, type Tree } from "./tree.ts";
import { truth } from "./units.ts";

/** A mapping of a project, at its path. */
export class Reader {
  readonly mapping: Mapping;
  readonly path: Path;
  readonly report: Report;

  constructor(mapping: Mapping, path: Path, report: Report) {
    this.mapping = mapping;
    this.path = path;
    this.report = report;
  }

  /** Where a key stands. */
  at(key: string): Place {
    return this.mapping.keys.get(key) ?? this.mapping.entries.get(key)?.at ?? this.mapping.at;
  }

  error(reason: ComposeReason, key: string, message: string, advice: string): void {
    this.report.error(reason, this.at(key), [...this.path, key], message, advice);
  }

  warn(reason: ComposeReason, key: string, message: string, advice: string): void {
    this.report.warn(reason, this.at(key), [...this.path, key], message, advice);
  }

  /** Runs what may find a value unreadable. */
  attempt<T>(key: string | number | Path, at: Place, read: () => T): T | undefined {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      const path = typeof key === "object" ? key : [key];
      this.report.error("VALUE_INVALID", at, [...this.path, ...path], error.message, error.advice);
      return undefined;
    }
  }

  scalar(key: string): Scalar | undefined {
    const value = this.mapping.entries.get(key);
    return value?.kind === "scalar" && value.value !== null ? value : undefined;
  }

  text(key: string): string | undefined {
    const value = this.scalar(key);
    return value === undefined ? undefined : textOf(value);
  }

  /** A text that is not empty. */
  word(key: string): string | undefined {
    const text = this.text(key);
    return text === "" ? undefined : text;
  }

  flag(key: string, otherwise = false): boolean {
    const value = this.scalar(key);
    if (value === undefined || value.value === "") return otherwise;
    return this.attempt(key, value.at, () => truth(value)) ?? otherwise;
  }

  /** A value in its own notation. */
  value<T>(key: string, read: (text: string) => T): T | undefined {
    const value = this.scalar(key);
    if (value === undefined || value.value === "") return undefined;
    return this.attempt(key, value.at, () => read(textOf(value)));
  }

  child(key: string): Reader | undefined {
    const value = this.mapping.entries.get(key);
    return value?.kind === "mapping" ? new Reader(value, [...this.path, key], this.report) : undefined;
  }

  list(key: string): Sequence["items"] {
    const value = this.mapping.entries.get(key);
    return value?.kind === "sequence" ? value.items : [];
  }

  /** A list of strings, or the one string. */
  texts(key: string): string[] {
    const value = this.mapping.entries.get(key);
    const items: readonly Tree[] = value?.kind === "sequence" ? value.items : value?.kind === "scalar" ? [value] : [];
    return items.flatMap((item) => (item.kind === "scalar" && item.value !== null ? [textOf(item)] : []));
  }

  /** A mapping of names to texts, sorted; names without a value are empty. */
  record(key: string): Record<string, string> {
    const entries: [string, string][] = [];
    for (const [name, value] of this.child(key)?.mapping.entries ?? [])
      if (value.kind === "scalar") entries.push([name, textOf(value)]);
    return sorted(entries);
  }

  /** The mappings below a key, by name. */
  *children(key: string): Generator<[string, Reader]> {
    const parent = this.child(key);
    for (const [name, value] of parent?.mapping.entries ?? []) {
      if (name.startsWith("x-")) continue;
      const at = parent?.mapping.keys.get(name) ?? value.at;
      const mapping: Mapping =
        value.kind === "mapping" ? value : { kind: "mapping", entries: new Map(), keys: new Map(), at };
      yield [name, new Reader(mapping, [...this.path, key, name], this.report)];
    }
  }
}

/** An object without a prototype, sorted by key (M1). */
export function sorted<T>(entries: Iterable<readonly [string, T]>): Record<string, T> {
  const object: Record<string, T> = Object.create(null);
  for (const [key, value] of [...entries].toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) object[key] = value;
  return object;
}

/** The fields that are set. */
export function set<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
