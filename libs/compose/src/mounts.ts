/** What a service mounts: the short syntax and the long one. */
import type { Mount } from "./model.ts";
import { Unreadable } from "./unreadable.ts";
import { textOf, type Mapping, type Tree } from "./tree.ts";
import { modeBits, sizeBytes, truth } from "./units.ts";

/** A mount, with the notes that the report gets. */
export interface ReadMount {
  readonly mount: Mount;
  /** Parts of the entry that have no effect. */
  readonly ignored: readonly string[];
}

const shortForm = "Write [VOLUME:]/TARGET[:ro], or the long form with type, source and target.";

/** Options of the short syntax that change nothing on a Linux engine that is not shared, and why. */
const ignoredOptions: Readonly<Record<string, string>> = {
  rw: "",
  z: "the SELinux label z",
  Z: "the SELinux label Z",
  cached: "the consistency cached",
  delegated: "the consistency delegated",
  consistent: "the consistency consistent",
  nocopy: "nocopy",
  private: "", // what an engine does anyway
  rprivate: "",
  slave: "the propagation slave (what the host mounts there later is not seen inside)",
  rslave: "the propagation rslave (what the host mounts there later is not seen inside)",
};

/** Options that would change what a container may do or sees, and that no runtime has. */
const refusedOptions = /^(r?shared|subpath=.*)$/;

/** One entry of `volumes`. */
export function readMount(entry: Tree): ReadMount {
  if (entry.kind === "scalar") return shortMount(textOf(entry));
  if (entry.kind !== "mapping") throw new Unreadable("a mount is a string or a mapping", shortForm);
  return longMount(entry);
}

/** The path inside the container: what makes a mount the same in two files. */
export function mountTarget(entry: Tree): string {
  try {
    return readMount(entry).mount.target;
  } catch {
    // Not readable: it is the same as nothing, and normalising says what is wrong.
    return JSON.stringify(entry);
  }
}

/** Whether a source is a path of the host and no name of a volume. */
export function isHostPath(source: string): boolean {
  return /^(\/|\.|~|[A-Za-z]:[\\/]|\\)/.test(source);
}

function targetPath(target: string): string {
  if (!target.startsWith("/") || target.includes("\0"))
    throw new Unreadable(`the target ${JSON.stringify(target)} is no absolute path`, "Start it with a slash.");
  const parts = target.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..") || parts.length === 0)
    throw new Unreadable(
      `the target ${JSON.stringify(target)} is no path inside the container`,
      "Name a folder or file.",
    );
  return `/${parts.join("/")}`;
}

function shortMount(text: string): ReadMount {
  const parts = text.split(":");
  // A drive letter of Windows is one part with what follows it; `d:/data` is a volume d.
  const drive =
    /^[A-Za-z]$/.test(parts[0] ?? "") && ((parts[1] ?? "").startsWith("\\") || (parts[2] ?? "").startsWith("/"));
  if (drive) parts.splice(0, 2, `${parts[0]}:${parts[1]}`);
  if (parts.length > 3 || parts.includes("")) {
    const why = parts.includes("") ? ": there is nothing beside a colon; a variable may be empty" : "";
    throw new Unreadable(`${JSON.stringify(text)} is no mount${why}`, shortForm);
  }
  const [first = "", second, options = ""] = parts;
  if (second === undefined || (parts.length === 2 && !second.startsWith("/") && first.startsWith("/"))) {
    const flags = flagsOf(second ?? "", text);
    return {
      mount: { kind: "volume", volume: "", target: targetPath(first), readOnly: flags.readOnly },
      ignored: flags.ignored,
    };
  }
  const { readOnly, ignored } = flagsOf(options, text);
  const target = targetPath(second);
  const mount: Mount = isHostPath(first)
    ? { kind: "bind", source: first, target, readOnly, createHostPath: true }
    : { kind: "volume", volume: first, target, readOnly };
  return { mount, ignored };
}

function flagsOf(options: string, text: string): { readOnly: boolean; ignored: string[] } {
  const flags = { readOnly: false, ignored: [] as string[] };
  for (const option of options === "" ? [] : options.split(",")) {
    if (option === "ro") flags.readOnly = true;
    else if (Object.hasOwn(ignoredOptions, option)) flags.ignored.push(ignoredOptions[option] ?? "");
    else if (refusedOptions.test(option))
      throw new Unreadable(
        `the option ${JSON.stringify(option)} of ${JSON.stringify(text)} is not supported`,
        "Use ro or rw.",
      );
    // As Compose does, which says nothing of it.
    else flags.ignored.push(`${JSON.stringify(option)}, which is no option of a mount,`);
  }
  return { ...flags, ignored: flags.ignored.filter((option) => option !== "") };
}

function longMount(entry: Mapping): ReadMount {
  const scalar = (from: Mapping | undefined, key: string) => {
    const value = from?.entries.get(key);
    return value?.kind === "scalar" && value.value !== null ? value : undefined;
  };
  const part = (key: string) => {
    const value = entry.entries.get(key);
    return value?.kind === "mapping" ? value : undefined;
  };
  const text = (key: string) => {
    const value = scalar(entry, key);
    return value === undefined ? undefined : textOf(value);
  };
  const flag = (from: Mapping | undefined, key: string, otherwise: boolean) => {
    const value = scalar(from, key);
    return value === undefined ? otherwise : truth(value);
  };
  const target = text("target");
  if (target === undefined)
    throw new Unreadable("the mount has no target", "Add target: the path inside the container.");
  const common = { target: targetPath(target), readOnly: flag(entry, "read_only", false) };
  const source = text("source") ?? "";
  const type = text("type") ?? "";
  if (type === "bind") {
    if (source === "") throw new Unreadable("the bind mount has no source", "Add source: a path of the host.");
    const createHostPath = flag(part("bind"), "create_host_path", true);
    const propagation = scalar(part("bind"), "propagation");
    const { ignored } = flagsOf(propagation === undefined ? "" : textOf(propagation), "propagation");
    return { mount: { kind: "bind", source, ...common, createHostPath }, ignored };
  }
  if (type === "volume") {
    if (isHostPath(source))
      throw new Unreadable(`${JSON.stringify(source)} is no name of a volume`, "Use type: bind for a path.");
    return { mount: { kind: "volume", volume: source, ...common }, ignored: [] };
  }
  if (type === "tmpfs") {
    const size = scalar(part("tmpfs"), "size");
    const mode = scalar(part("tmpfs"), "mode");
    return {
      mount: {
        kind: "tmpfs",
        target: common.target,
        ...(size === undefined ? {} : { sizeBytes: sizeBytes(textOf(size)) }),
        ...(mode === undefined ? {} : { mode: modeBits(mode) }),
      },
      ignored: [],
    };
  }
  throw new Unreadable(`mounts of type ${type} are not supported`, "Use a volume, a tmpfs, or a config for a file.");
}

/** One entry of `tmpfs`: a path, with `size=`, `mode=` and flags after a colon. */
export function readTmpfs(text: string): ReadMount {
  const cut = text.indexOf(":");
  const target = targetPath(cut < 0 ? text : text.slice(0, cut));
  let mount: Mount = { kind: "tmpfs", target };
  const ignored: string[] = [];
  for (const option of cut < 0 ? [] : text.slice(cut + 1).split(",")) {
    const [key, value = ""] = option.split("=", 2);
    if (key === "size") mount = { ...mount, sizeBytes: sizeBytes(value) };
    else if (key === "mode" && /^[0-7]{1,5}$/.test(value)) mount = { ...mount, mode: Number.parseInt(value, 8) };
    else if (option !== "rw") ignored.push(`the tmpfs option ${JSON.stringify(option)}`);
  }
  return { mount, ignored };
}
