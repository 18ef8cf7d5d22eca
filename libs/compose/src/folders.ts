/**
 * Relative paths of a file that another one includes, or extends from: they
 * start at that file's own folder. Here they are written anew, to start at the
 * folder of the first file, as all others do.
 */
import { plainPath } from "./contents.ts";
import { isHostPath } from "./mounts.ts";
import { mapEntries, textOf, withEntry, type Mapping, type Scalar, type Tree } from "./tree.ts";

/** The folder that a file is in; empty: the first file's. */
export function folderOf(path: string): string {
  const plain = plainPath(path);
  return plain.includes("/") ? plain.slice(0, plain.lastIndexOf("/")) || "/" : "";
}

/** A path that starts at a folder. */
export function pathIn(folder: string, path: string): string {
  const isElsewhere = /^([/~\\]|[A-Za-z]:[\\/]|[\w+.-]+:\/\/|git@)/.test(path);
  if (folder === "" || path === "" || isElsewhere) return path;
  const plain = plainPath(`${folder}/${path}`);
  return /^(\/|\.\.(\/|$))/.test(plain) ? plain : `./${plain}`;
}

/** A canonical document whose relative paths start at `folder`. */
export function relocated(document: Mapping, folder: string): Mapping {
  if (folder === "") return document;
  const path = (tree: Tree): Tree =>
    tree.kind === "scalar" ? moved(tree, (text) => pathIn(folder, text)) : each(tree, path);
  const fields = (tree: Tree, ...keys: string[]): Tree =>
    tree.kind !== "mapping" ? tree : keys.reduce((all, key) => change(all, key, path), tree);
  const fileOf = (tree: Tree): Tree =>
    tree.kind === "mapping" ? mapEntries(tree, (one) => fields(one, "file")) : tree;
  const service = (tree: Tree): Tree => {
    if (tree.kind !== "mapping") return tree;
    let own = change(tree, "env_file", (list) =>
      each(list, (item) => (item.kind === "scalar" ? path(item) : fields(item, "path"))),
    );
    own = change(own, "volumes", (list) => each(list, (item) => mount(item, folder)));
    return change(own, "extends", (one) => fields(one, "file"));
  };
  let whole = change(document, "services", (all) => (all.kind === "mapping" ? mapEntries(all, service) : all));
  for (const key of ["configs", "secrets"]) whole = change(whole, key, fileOf);
  whole = change(whole, "volumes", (all) =>
    all.kind === "mapping" ? mapEntries(all, (one) => device(one, folder)) : all,
  );
  return change(whole, "include", (list) =>
    each(list, (item) => (item.kind === "scalar" ? path(item) : fields(item, "path", "project_directory", "env_file"))),
  );
}

function change(mapping: Mapping, key: string, how: (tree: Tree) => Tree): Mapping {
  const value = mapping.entries.get(key);
  return value === undefined ? mapping : withEntry(mapping, key, how(value));
}

function each(tree: Tree, how: (item: Tree) => Tree): Tree {
  return tree.kind === "sequence" ? { ...tree, items: tree.items.map(how) } : tree;
}

function moved(scalar: Scalar, how: (text: string) => string): Scalar {
  if (scalar.value === null) return scalar;
  const text = how(textOf(scalar));
  return { ...scalar, value: text, source: text };
}

function mount(item: Tree, folder: string): Tree {
  if (item.kind === "mapping") {
    const source = item.entries.get("source");
    const type = item.entries.get("type");
    const binds = type?.kind === "scalar" && type.value === "bind" && source?.kind === "scalar";
    return binds
      ? withEntry(
          item,
          "source",
          moved(source, (text) => pathIn(folder, text)),
        )
      : item;
  }
  if (item.kind !== "scalar") return item;
  return moved(item, (text) => {
    const cut = text.indexOf(":");
    const source = text.slice(0, cut);
    return cut > 0 && isHostPath(source) ? `${pathIn(folder, source)}${text.slice(cut)}` : text;
  });
}

/** Of a volume that is a bind mount: what else stands there is no path. */
function device(volume: Tree, folder: string): Tree {
  if (volume.kind !== "mapping") return volume;
  return change(volume, "driver_opts", (options) =>
    options.kind !== "mapping"
      ? options
      : change(options, "device", (one) =>
          one.kind === "scalar" && /^\.\.?(\/|$)/.test(textOf(one)) ? moved(one, (text) => pathIn(folder, text)) : one,
        ),
  );
}
