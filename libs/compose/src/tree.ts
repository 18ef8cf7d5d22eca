/**
 * The files as trees whose every node knows where it stands, so that whatever
 * is found wrong later, after merging, still has its file, line and column.
 * Trees are never changed in place: aliases share nodes.
 */
import type { Path, Place } from "./report.ts";

/** `!reset` removes what earlier files say; `!override` replaces it without merging. */
export type MergeTag = "reset" | "override";

interface Node {
  readonly at: Place;
  readonly tag?: MergeTag;
}

/** A scalar. */
export interface Scalar extends Node {
  readonly kind: "scalar";
  readonly value: string | number | boolean | null;
  /** As it was written: `0440`, `1.10`, `18446744073709551615`. */
  readonly source: string;
  /** Written in quotes or as a block: interpolation never makes it a number or a boolean. */
  readonly quoted: boolean;
}

/** A sequence. */
export interface Sequence extends Node {
  readonly kind: "sequence";
  readonly items: readonly Tree[];
}

/** A mapping, in the order of the file. */
export interface Mapping extends Node {
  readonly kind: "mapping";
  readonly entries: ReadonlyMap<string, Tree>;
  /** Where the keys stand. */
  readonly keys: ReadonlyMap<string, Place>;
}

export type Tree = Scalar | Sequence | Mapping;

/** JSON of a tree. */
export type Plain = string | number | boolean | null | Plain[] | { [key: string]: Plain };

/** The tree as plain data. Objects have no prototype: `__proto__` is a key like any other. */
export function plain(tree: Tree): Plain {
  if (tree.kind === "scalar") return tree.value;
  if (tree.kind === "sequence") return tree.items.map(plain);
  const object: { [key: string]: Plain } = Object.create(null);
  for (const [key, value] of tree.entries) object[key] = plain(value);
  return object;
}

/** A scalar's text as a person wrote it; null is empty. */
export function textOf(scalar: Scalar): string {
  if (typeof scalar.value === "string") return scalar.value;
  return scalar.value === null ? "" : scalar.source;
}

/** A scalar made of text, at the place of another node. */
export function textScalar(value: string, at: Place): Scalar {
  return { kind: "scalar", value, source: value, quoted: true, at };
}

/** A mapping of entries, at the place of another node. */
export function mappingOf(
  entries: Iterable<readonly [string, Tree]>,
  at: Place,
  keys: ReadonlyMap<string, Place> = new Map(),
): Mapping {
  return { kind: "mapping", entries: new Map(entries), keys, at };
}

/** The node at a path; undefined where there is none. */
export function treeAt(tree: Tree | undefined, path: Path): Tree | undefined {
  let node = tree;
  for (const part of path) {
    if (node?.kind === "mapping") node = node.entries.get(String(part));
    else if (node?.kind === "sequence" && typeof part === "number") node = node.items[part];
    else return undefined;
  }
  return node;
}

/** Where a path stands: its key if it has one, else its value, else the nearest node above. */
export function placeAt(tree: Tree, path: Path): Place {
  let node: Tree = tree;
  let place = tree.at;
  for (const part of path) {
    let next: Tree | undefined;
    if (node.kind === "mapping") {
      next = node.entries.get(String(part));
      place = node.keys.get(String(part)) ?? next?.at ?? place;
    } else if (node.kind === "sequence") {
      next = node.items[Number(part)];
      place = next?.at ?? place;
    }
    if (next === undefined) return place;
    node = next;
  }
  return place;
}

/** Applies a change to one value of a mapping; the rest stays. */
export function withEntry(mapping: Mapping, key: string, value: Tree | undefined): Mapping {
  const entries = new Map(mapping.entries);
  if (value === undefined) entries.delete(key);
  else entries.set(key, value);
  return { ...mapping, entries };
}

/** Applies a change to each value of a mapping. */
export function mapEntries(mapping: Mapping, change: (value: Tree) => Tree): Mapping {
  return { ...mapping, entries: new Map([...mapping.entries].map(([key, value]) => [key, change(value)])) };
}
