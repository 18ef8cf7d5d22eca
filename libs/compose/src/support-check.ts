/** Says of every key in the files what the table says of it. */
import type { Path, Report } from "./report.ts";
import { sections, type Section } from "./support.ts";
import type { Mapping, Tree } from "./tree.ts";

/** Warns of what is ignored and refuses what is refused, in the whole of a project. */
export function checkSupport(project: Mapping, report: Report): void {
  for (const section of sections) visit(project, section.at, [], section, report);
}

function visit(tree: Tree, left: readonly string[], path: Path, section: Section, report: Report): void {
  const [step, ...rest] = left;
  if (step === undefined) {
    if (tree.kind === "mapping") checkKeys(tree, path, section, report);
  } else if (tree.kind === "sequence") {
    if (step === "*") tree.items.forEach((item, index) => visit(item, rest, [...path, index], section, report));
  } else if (tree.kind === "mapping") {
    for (const [key, value] of tree.entries)
      if (step === key || (step === "*" && !key.startsWith("x-"))) visit(value, rest, [...path, key], section, report);
  }
}

/** Nothing is asked for where a value is absent, false or empty. */
export function asksNothing(value: Tree): boolean {
  if (value.kind === "mapping") return value.entries.size === 0;
  if (value.kind === "sequence") return value.items.length === 0;
  return value.value === null || value.value === false || value.value === "" || value.value === "false";
}

/** Values that say what is done anyway, of keys that are else ignored or refused. */
function isAsItIs(key: string, value: Tree): boolean {
  if (value.kind !== "scalar") return false;
  return (key === "runtime" && value.value === "runc") || (key === "mode" && value.value === "host");
}

function checkKeys(mapping: Mapping, path: Path, section: Section, report: Report): void {
  for (const [key, value] of mapping.entries) {
    const support = Object.hasOwn(section.keys, key) ? section.keys[key] : undefined;
    if (support === undefined || asksNothing(value) || isAsItIs(key, value)) continue;
    const at = mapping.keys.get(key) ?? value.at;
    if (support.status === "ignored")
      report.warn("KEY_IGNORED", at, [...path, key], `${key} has no effect here`, support.note);
    if (support.status !== "refused") continue;
    if (key === "build" && path.length === 2 && path[0] === "services")
      if (mapping.entries.has("image"))
        report.warn(
          "KEY_IGNORED",
          at,
          [...path, key],
          "the image is pulled, not built",
          "Build it and push it before.",
        );
      else
        report.error(
          "UNSUPPORTED_BUILD",
          at,
          [...path, key],
          "the service must be built, and agents only pull images",
          "Build the image, push it to a registry, and name it in image.",
        );
    else report.error("UNSUPPORTED_KEY", at, [...path, key], `${key} is not supported`, support.note);
  }
}
