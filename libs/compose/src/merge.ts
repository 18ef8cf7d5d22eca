/**
 * How a later file changes an earlier one, by the rules of the specification:
 * scalars replace, mappings merge, sequences append. Commands and the test of a
 * health check replace. Ports, mounts, secrets and configs are one per key.
 */
import { canonicalService } from "./canonical.ts";
import { portKey } from "./ports.ts";
import { mountTarget } from "./mounts.ts";
import type { Path } from "./report.ts";
import { textOf, type Mapping, type Sequence, type Tree } from "./tree.ts";

/** Sequences that a later file replaces. */
const replaced = ["command", "entrypoint", "healthcheck.test"];

/** Sequences with one item per key, and the key. */
const keyed: Readonly<Record<string, (item: Tree) => string>> = {
  ports: portKey,
  volumes: mountTarget,
  secrets: (item) => field(item, "target") ?? field(item, "source") ?? scalarText(item),
  configs: (item) => field(item, "target") ?? field(item, "source") ?? scalarText(item),
};

function field(item: Tree, key: string): string | undefined {
  const value = item.kind === "mapping" ? item.entries.get(key) : undefined;
  return value?.kind === "scalar" ? textOf(value) : undefined;
}

function scalarText(item: Tree): string {
  return item.kind === "scalar" ? textOf(item) : JSON.stringify(item);
}

/** The files' trees in one form, so that they can be merged. */
export function canonical(tree: Mapping): Mapping {
  const services = tree.entries.get("services");
  if (services?.kind !== "mapping") return tree;
  const entries = new Map<string, Tree>();
  for (const [name, service] of services.entries)
    entries.set(name, service.kind === "mapping" ? canonicalService(service) : service);
  return { ...tree, entries: new Map(tree.entries).set("services", { ...services, entries }) };
}

/** What two canonical trees say together. */
export function merge(base: Tree, over: Tree, path: Path = []): Tree {
  if (over.tag !== undefined) return settle(over);
  if (base.kind === "mapping" && over.kind === "mapping") return mergeMappings(base, over, path);
  if (base.kind === "sequence" && over.kind === "sequence") return mergeSequences(base, over, path);
  // `volumes:` with nothing after it takes nothing away; !reset does.
  if (over.kind === "scalar" && over.value === null && base.kind !== "scalar") return base;
  return settle(over);
}

/** What two canonical services say together. */
export function mergeServices(base: Mapping, over: Mapping): Mapping {
  return merge(base, over, ["services", ""]) as Mapping;
}

/** A tree without what `!reset` removes, and without tags. */
export function settle(tree: Tree): Tree {
  const rest: Tree = { ...tree, tag: undefined };
  if (rest.kind === "scalar") return rest;
  if (rest.kind === "sequence")
    return { ...rest, items: rest.items.filter((item) => item.tag !== "reset").map(settle) };
  const kept = [...rest.entries].filter(([, value]) => value.tag !== "reset");
  return { ...rest, entries: new Map(kept.map(([key, value]) => [key, settle(value)])) };
}

function mergeMappings(base: Mapping, over: Mapping, path: Path): Mapping {
  const place = serviceKey(path);
  // Options of one logging driver mean nothing to another.
  if (place === "logging" && differ(base.entries.get("driver"), over.entries.get("driver")))
    return settle(over) as Mapping;
  const entries = new Map(base.entries);
  const keys = new Map(base.keys);
  for (const [key, value] of over.entries) {
    const before = entries.get(key);
    if (value.tag === "reset") entries.delete(key);
    else entries.set(key, before === undefined ? settle(value) : merge(before, value, [...path, key]));
    const at = over.keys.get(key);
    if (at !== undefined) keys.set(key, at);
  }
  return { ...base, at: over.at, entries, keys };
}

function differ(base: Tree | undefined, over: Tree | undefined): boolean {
  return base?.kind === "scalar" && over?.kind === "scalar" && base.value !== over.value;
}

/** `healthcheck.test` of `services.web.healthcheck.test`. */
function serviceKey(path: Path): string | undefined {
  return path[0] === "services" && path.length > 2 ? path.slice(2).join(".") : undefined;
}

function mergeSequences(base: Sequence, over: Sequence, path: Path): Sequence {
  const place = serviceKey(path);
  const added = settle(over) as Sequence;
  if (place !== undefined && replaced.includes(place)) return added;
  const keyOf = place === undefined ? undefined : keyed[place];
  const items = [...base.items];
  const indexes = new Map(items.map((item, index) => [keyOf?.(item) ?? scalarText(item), index]));
  for (const item of added.items) {
    const index = indexes.get(keyOf?.(item) ?? scalarText(item));
    const before = index === undefined ? undefined : items[index];
    if (index === undefined || before === undefined) {
      indexes.set(keyOf?.(item) ?? scalarText(item), items.length);
      items.push(item);
    } else items[index] = keyOf === undefined ? before : merge(before, item, []);
  }
  return { ...added, items };
}
