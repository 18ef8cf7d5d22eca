/**
 * One form for what may be written in two, so that files with different forms
 * merge: lists of `NAME=value` become mappings, a string where a list may stand
 * a list, names of networks and dependencies mappings.
 */
import type { Place } from "./report.ts";
import {
  mappingOf,
  textOf,
  textScalar,
  withEntry,
  type Mapping,
  type Scalar,
  type Sequence,
  type Tree,
} from "./tree.ts";

const toMapping = ["environment", "labels", "sysctls", "annotations"] as const;
const toList = ["env_file", "dns", "dns_search", "tmpfs", "label_file"] as const;

/** A service in the form that merging and normalising read. */
export function canonicalService(service: Mapping): Mapping {
  let result = service;
  const change = (key: string, form: (value: Tree) => Tree) => {
    const value = result.entries.get(key);
    if (value !== undefined && value.tag !== "reset") result = withEntry(result, key, tagged(form(value), value));
  };
  for (const key of toMapping) change(key, pairs);
  for (const key of toList) change(key, many);
  change("extra_hosts", hosts);
  change("depends_on", (value) =>
    names(value, (at) => mappingOf([["condition", textScalar("service_started", at)]], at)),
  );
  change("networks", (value) =>
    names(value, (at): Scalar => ({ kind: "scalar", value: null, source: "", quoted: false, at })),
  );
  const deploy = result.entries.get("deploy");
  if (deploy?.kind === "mapping") {
    const labels = deploy.entries.get("labels");
    if (labels !== undefined)
      result = withEntry(result, "deploy", withEntry(deploy, "labels", tagged(pairs(labels), labels)));
  }
  return result;
}

function tagged(tree: Tree, from: Tree): Tree {
  return from.tag === undefined ? tree : { ...tree, tag: from.tag };
}

/** `["A=1", "B"]` as `{A: "1", B: null}`. The last of two wins, as in an environment. */
export function pairs(value: Tree): Tree {
  if (value.kind !== "sequence") return value;
  const entries = new Map<string, Tree>();
  const keys = new Map<string, Place>();
  for (const item of value.items) {
    if (item.kind !== "scalar") continue;
    const text = textOf(item);
    const cut = text.indexOf("=");
    const key = cut < 0 ? text : text.slice(0, cut);
    entries.set(key, cut < 0 ? { ...item, value: null, source: "" } : textScalar(text.slice(cut + 1), item.at));
    keys.set(key, item.at);
  }
  return mappingOf(entries, value.at, keys);
}

function many(value: Tree): Tree {
  if (value.kind === "sequence") return value;
  return { kind: "sequence", items: [value], at: value.at } satisfies Sequence;
}

/** `{host: ip}` as `["host=ip"]`: one host may have several. */
function hosts(value: Tree): Tree {
  if (value.kind !== "mapping") return value;
  const items: Tree[] = [];
  for (const [host, addresses] of value.entries)
    for (const address of addresses.kind === "sequence" ? addresses.items : [addresses])
      if (address.kind === "scalar") items.push(textScalar(`${host}=${textOf(address)}`, address.at));
  return { kind: "sequence", items, at: value.at };
}

function names(value: Tree, entry: (at: Place) => Tree): Tree {
  if (value.kind !== "sequence") return value;
  const scalars = value.items.filter((item) => item.kind === "scalar");
  return mappingOf(
    scalars.map((item) => [textOf(item), entry(item.at)]),
    value.at,
    new Map(scalars.map((item) => [textOf(item), item.at])),
  );
}
