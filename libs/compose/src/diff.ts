/**
 * What differs between two stacks, for people and for dry runs: per service and
 * per resource, field by field, in a stable order.
 *
 * D1: no secret's content, ever; whether it differs is all that is said.
 */
import type { Stack } from "./model.ts";
import type { ParsedStack } from "./parse.ts";

/** One difference. */
export interface Difference {
  readonly kind: "service" | "volume" | "network" | "secret" | "config";
  readonly name: string;
  readonly change: "added" | "removed" | "changed";
  /** `ports[0].published`; empty where the whole came or went. */
  readonly field: string;
  /** JSON of what was and what is; undefined: not there. */
  readonly before?: unknown;
  readonly after?: unknown;
}

type Side = Pick<ParsedStack, "stack" | "contents">;

const kinds = [
  ["service", "services"],
  ["volume", "volumes"],
  ["network", "networks"],
  ["secret", "secrets"],
  ["config", "configs"],
] as const satisfies [Difference["kind"], keyof Stack][];

/** All differences. A side without a stack is an empty one: everything was added, or is removed. */
export function diffStacks(before: Partial<Side>, after: Partial<Side>): Difference[] {
  const found: Difference[] = [];
  for (const [kind, list] of kinds) {
    const old = new Map((before.stack?.[list] ?? []).map((one) => [one.name, one]));
    const now = new Map((after.stack?.[list] ?? []).map((one) => [one.name, one]));
    for (const name of [...new Set([...old.keys(), ...now.keys()])].toSorted()) {
      const [was, is] = [old.get(name), now.get(name)];
      if (was === undefined) found.push({ kind, name, change: "added", field: "" });
      else if (is === undefined) found.push({ kind, name, change: "removed", field: "" });
      else {
        for (const { field, ...values } of fields(was, is, ""))
          found.push({ kind, name, change: "changed", field, ...values });
        if (kind === "secret" && contentDiffers(name, before, after))
          found.push({ kind, name, change: "changed", field: "content" }); // D1
      }
    }
  }
  return found;
}

function contentDiffers(name: string, before: Partial<Side>, after: Partial<Side>): boolean {
  const [was, is] = [before.contents?.get(name), after.contents?.get(name)];
  if (was === undefined || is === undefined) return false; // not known on one side
  return was.length !== is.length || was.some((byte, index) => byte !== is[index]);
}

interface Field {
  readonly field: string;
  readonly before?: unknown;
  readonly after?: unknown;
}

function fields(was: unknown, is: unknown, field: string): Field[] {
  if (Array.isArray(was) && Array.isArray(is)) {
    if (scalars(was) && scalars(is))
      return JSON.stringify(was) === JSON.stringify(is) ? [] : [{ field, before: was, after: is }];
    const length = Math.max(was.length, is.length);
    return Array.from({ length }, (_, index) => fields(was[index], is[index], `${field}[${index}]`)).flat();
  }
  if (isObject(was) && isObject(is)) {
    const names = [...new Set([...Object.keys(was), ...Object.keys(is)])].toSorted();
    return names.flatMap((name) => fields(was[name], is[name], joined(field, name)));
  }
  if (was === is) return [];
  return [{ field, ...(was === undefined ? {} : { before: was }), ...(is === undefined ? {} : { after: is }) }];
}

function scalars(list: readonly unknown[]): boolean {
  return list.every((item) => typeof item !== "object" || item === null);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function joined(field: string, name: string): string {
  if (!/^[\w-]+$/.test(name)) return `${field}[${JSON.stringify(name)}]`;
  return field === "" ? name : `${field}.${name}`;
}

/** The longest value that one line shows. */
const MAX_SHOWN = 120;

function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}… (${text.length} characters)` : text;
}

/** The differences as lines: `+` added, `-` removed, `~` changed with its fields below. */
export function diffLines(differences: readonly Difference[]): string[] {
  const lines: string[] = [];
  let last = "";
  for (const { kind, name, change, field, before, after } of differences) {
    const head = `${{ added: "+", removed: "-", changed: "~" }[change]} ${kind} ${name}`;
    if (head !== last) lines.push(head);
    last = head;
    if (change !== "changed") continue;
    if (kind === "secret" && field === "content") lines.push("    content: changed (not shown)");
    else if (before === undefined) lines.push(`    ${field}: + ${shown(after)}`);
    else if (after === undefined) lines.push(`    ${field}: - ${shown(before)}`);
    else lines.push(`    ${field}: ${shown(before)} → ${shown(after)}`);
  }
  return lines;
}
