/** What a service finds at paths of its container: mounts, secrets and configs. */
import type { Contents } from "./contents.ts";
import type { Asked } from "./host.ts";
import type { FileMount, Mount } from "./model.ts";
import { readMount, readTmpfs } from "./mounts.ts";
import { set, type Reader } from "./reader.ts";
import { textOf } from "./tree.ts";
import { modeBits } from "./units.ts";

/** What a service is read with, besides its own keys. */
export interface Surroundings {
  readonly variables: Readonly<Record<string, string>>;
  /** The files that came with the stack. */
  readonly given: Contents;
  /** What the services so far have taken of a limit of the whole stack. */
  readonly spent: { environment: number };
  /** Names of configs that the files declare. */
  readonly declared: ReadonlySet<string>;
  /** Where relative host paths begin; undefined: they are refused. */
  readonly projectDirectory?: string;
}

/** What a service mounts. A relative bind mount whose files came with the stack becomes configs. */
export function readFiles(
  service: Reader,
  around: Surroundings,
  asked: Asked,
): { mounts: readonly Mount[]; configs: readonly FileMount[] } {
  const entries = [
    ...service.list("volumes").map((item, index) => ({ item, path: ["volumes", index], read: () => readMount(item) })),
    ...service.list("tmpfs").map((item, index) => ({
      item,
      path: ["tmpfs", index],
      read: () => readTmpfs(item.kind === "scalar" ? textOf(item) : ""),
    })),
  ];
  const targets = new Set<string>();
  const all: Mount[] = [];
  const configs = fileMounts(service, "configs");
  for (const { item, path, read } of entries) {
    const found = service.attempt(path, item.at, read);
    if (found === undefined) continue;
    const where = [...service.path, ...path];
    for (const part of found.ignored)
      service.report.warn("VALUE_IGNORED", item.at, where, `${part} has no effect`, "Leave it out.");
    const { mount } = found;
    if (targets.has(mount.target))
      service.report.error("CONFLICT", item.at, where, `two mounts at ${mount.target}`, "Keep one of them.");
    targets.add(mount.target);
    if (mount.kind !== "bind") {
      all.push(mount);
      continue;
    }
    const copies = bindCopies(mount, around);
    if (copies === undefined)
      all.push({
        ...mount,
        source: asked.hostPath(mount.source, mount.readOnly, item.at, where, around.projectDirectory),
      });
    else if (!mount.readOnly)
      service.report.warn(
        "VALUE_IGNORED",
        item.at,
        where,
        "the mount is a copy of the file that came with the stack",
        "Write :ro; what the container writes there would be lost.",
      );
    configs.push(...(copies ?? []));
  }
  return { mounts: all, configs };
}

function bindCopies(mount: Mount & { kind: "bind" }, around: Surroundings): FileMount[] | undefined {
  const relative = !/^([/~\\]|[A-Za-z]:)/.test(mount.source);
  if (!relative || around.projectDirectory !== undefined) return undefined;
  return around.given.asConfigs(mount, around.declared);
}

/** `secrets` or `configs` of a service. */
export function fileMounts(service: Reader, key: "secrets" | "configs"): FileMount[] {
  return service.list(key).flatMap((item, index): FileMount[] => {
    if (item.kind === "scalar") return [{ source: textOf(item), target: defaultTarget(key, textOf(item)) }];
    if (item.kind !== "mapping") return [];
    const field = (name: string) => {
      const value = item.entries.get(name);
      return value?.kind === "scalar" && value.value !== null ? value : undefined;
    };
    const text = (name: string) => {
      const value = field(name);
      return value === undefined ? undefined : textOf(value);
    };
    const source = text("source") ?? "";
    const target = text("target") ?? "";
    const mode = field("mode");
    const absolute = target.startsWith("/")
      ? target
      : key === "secrets"
        ? `/run/secrets/${target || source}`
        : `/${target || source}`;
    if (absolute.split("/").includes(".."))
      service.report.error(
        "VALUE_INVALID",
        item.at,
        [...service.path, key, index],
        `the target ${JSON.stringify(target)} leads upwards`,
        "Write it without .. parts.",
      );
    return [
      {
        source,
        target: absolute,
        ...set({
          uid: text("uid"),
          gid: text("gid"),
          mode: mode === undefined ? undefined : service.attempt([key, index, "mode"], mode.at, () => modeBits(mode)),
        }),
      },
    ];
  });
}

function defaultTarget(key: "secrets" | "configs", name: string): string {
  return key === "secrets" ? `/run/secrets/${name}` : `/${name}`;
}
