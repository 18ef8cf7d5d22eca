/**
 * The published schema of the Compose specification decides whether a file is
 * valid; this explains why one is not: which key, what is allowed there, what
 * may have been meant. (A validator's own words for that are "must match
 * exactly one schema in oneOf".)
 *
 * schema/compose-spec.json is the specification's file, unchanged; its licence
 * (Apache-2.0) stands beside it.
 */
import { Validator } from "@cfworker/json-schema";
import document from "./schema/compose-spec.json" with { type: "json" };
import type { ComposeReason } from "./reasons.ts";
import { pathText, type Path, type Report } from "./report.ts";
import { nearest } from "./suggest.ts";
import { placeAt, plain, type Plain, type Tree } from "./tree.ts";

/** The keywords that the published schema uses. A test holds it to them. */
export interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly patternProperties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean;
  readonly unevaluatedProperties?: boolean;
  readonly items?: Schema;
  readonly uniqueItems?: boolean;
  readonly oneOf?: readonly Schema[];
  readonly anyOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly $defs?: Readonly<Record<string, Schema>>;
}

/** The published schema. */
export const composeSchema = document as unknown as Schema;

let validator: Validator | undefined;

/** Says what the schema refuses in a file, each with its place. True where it refuses nothing. */
export function checkSchema(tree: Tree, report: Report): boolean {
  const value = plain(tree);
  validator ??= new Validator(document as ConstructorParameters<typeof Validator>[0], "2020-12", true);
  const verdict = validator.validate(value);
  if (verdict.valid) return true;
  const faults = explain(composeSchema, value, []);
  for (const { reason, path, message, advice } of faults)
    report.error(reason, placeAt(tree, path), path, message, advice);
  if (faults.length === 0) {
    const message = verdict.errors.at(-1)?.error ?? "it does not match the schema";
    report.error("SCHEMA_INVALID", tree.at, [], message, "See the Compose specification.");
  }
  return false;
}

interface Fault {
  readonly reason: ComposeReason;
  readonly path: Path;
  readonly message: string;
  readonly advice: string;
}

/** The definition that a schema refers to. */
export function dereference(schema: Schema): Schema {
  if (schema.$ref === undefined) return schema;
  const name = schema.$ref.replace("#/$defs/", "");
  return composeSchema.$defs?.[name] ?? {};
}

const nouns: Readonly<Record<string, string>> = {
  string: "a string",
  number: "a number",
  integer: "a whole number",
  boolean: "true or false",
  null: "nothing",
  array: "a list",
  object: "a mapping",
};

function typeOf(value: Plain): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value;
}

/** The types that a schema takes; empty is any. */
function typesOf(schema: Schema): readonly string[] {
  const found = dereference(schema);
  if (found.type !== undefined) return typeof found.type === "string" ? [found.type] : found.type;
  return [...new Set((found.oneOf ?? found.anyOf ?? []).flatMap(typesOf))];
}

function accepts(types: readonly string[], value: Plain): boolean {
  const type = typeOf(value);
  return types.length === 0 || types.includes(type) || (type === "integer" && types.includes("number"));
}

function list(words: readonly string[]): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

function wrongType(types: readonly string[], value: Plain, path: Path): Fault {
  const wanted = list([...new Set(types.map((type) => nouns[type] ?? type))]);
  const scalar = typeof value === "number" || typeof value === "boolean";
  const advice =
    scalar && types.includes("string") ? `Put it in quotes: ${JSON.stringify(String(value))}.` : `Write ${wanted}.`;
  const message = `must be ${wanted}, and is ${nouns[typeOf(value)]}`;
  return { reason: "SCHEMA_INVALID", path, message, advice };
}

/** Why a value is refused at a place; empty where it is not. */
function explain(given: Schema, value: Plain, path: Path): Fault[] {
  const schema = dereference(given);
  const types = schema.type === undefined ? [] : typesOf(schema);
  if (!accepts(types, value)) return [wrongType(types, value, path)];
  const faults = explainScalar(schema, value, path);
  for (const part of schema.allOf ?? []) faults.push(...explain(part, value, path));
  for (const choice of [schema.oneOf, schema.anyOf])
    if (choice !== undefined) faults.push(...explainChoice(choice, value, path));
  if (Array.isArray(value)) faults.push(...explainList(schema, value, path));
  else if (typeof value === "object" && value !== null) faults.push(...explainMapping(schema, value, path));
  return faults;
}

/** Of several forms the one that the value looks like explains best. */
function explainChoice(choice: readonly Schema[], value: Plain, path: Path): Fault[] {
  const attempts = choice
    .filter((schema) => accepts(typesOf(schema), value))
    .map((schema) => explain(schema, value, path))
    .toSorted((a, b) => a.length - b.length);
  return attempts[0] ?? [wrongType(choice.flatMap(typesOf), value, path)];
}

function explainScalar(schema: Schema, value: Plain, path: Path): Fault[] {
  const faults: Fault[] = [];
  const say = (message: string, advice: string) => faults.push({ reason: "SCHEMA_INVALID", path, message, advice });
  if (schema.enum !== undefined && !schema.enum.includes(value as string)) {
    const meant = nearest(JSON.stringify(value).replaceAll('"', ""), schema.enum);
    say(
      `must be ${list(schema.enum)}, and is ${shown(value)}`,
      meant === undefined ? `Write ${list(schema.enum)}.` : `Did you mean ${meant}?`,
    );
  }
  if (schema.pattern !== undefined && typeof value === "string" && !new RegExp(schema.pattern, "u").test(value))
    say(`${shown(value)} does not have the form ${schema.pattern}`, "Write a value of that form.");
  if (typeof value === "number" && schema.minimum !== undefined && value < schema.minimum)
    say(`must be at least ${schema.minimum}, and is ${value}`, "Write a larger number.");
  if (typeof value === "number" && schema.maximum !== undefined && value > schema.maximum)
    say(`must be at most ${schema.maximum}, and is ${value}`, "Write a smaller number.");
  return faults;
}

function shown(value: Plain): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

function explainList(schema: Schema, value: Plain[], path: Path): Fault[] {
  const faults = value.flatMap((item, index) =>
    schema.items === undefined ? [] : explain(schema.items, item, [...path, index]),
  );
  if (schema.uniqueItems !== true) return faults;
  const seen = new Map<string, number>();
  for (const [index, item] of value.entries()) {
    const key = JSON.stringify(item);
    const first = seen.get(key);
    seen.set(key, first ?? index);
    if (first === undefined) continue;
    const message = `the same as ${pathText([...path, first])}`;
    faults.push({ reason: "SCHEMA_INVALID", path: [...path, index], message, advice: "Leave one of them out." });
  }
  return faults;
}

/** The keys that a mapping may have by name. */
export function knownKeys(given: Schema): string[] {
  const schema = dereference(given);
  return [...Object.keys(schema.properties ?? {}), ...(schema.allOf ?? []).flatMap(knownKeys)];
}

function patterns(given: Schema): [RegExp, Schema][] {
  const schema = dereference(given);
  const own = Object.entries(schema.patternProperties ?? {}).map(([pattern, value]): [RegExp, Schema] => [
    new RegExp(pattern, "u"),
    value,
  ]);
  return [...own, ...(schema.allOf ?? []).flatMap(patterns)];
}

function explainMapping(schema: Schema, value: { [key: string]: Plain }, path: Path): Fault[] {
  const faults: Fault[] = [];
  const closed = schema.additionalProperties === false || schema.unevaluatedProperties === false;
  const known = knownKeys(schema);
  const matchers = patterns(schema);
  for (const key of Object.keys(value)) {
    const own = Object.hasOwn(schema.properties ?? {}, key) ? schema.properties?.[key] : undefined;
    if (own !== undefined) faults.push(...explain(own, value[key] ?? null, [...path, key]));
    for (const [pattern, matched] of Object.entries(schema.patternProperties ?? {}))
      if (new RegExp(pattern, "u").test(key)) faults.push(...explain(matched, value[key] ?? null, [...path, key]));
    if (closed && !known.includes(key) && !matchers.some(([pattern]) => pattern.test(key)))
      faults.push(unknownKey(key, known, matchers, path));
  }
  for (const key of schema.required ?? []) {
    if (Object.hasOwn(value, key)) continue;
    const message = `the key ${key} is missing`;
    faults.push({ reason: "SCHEMA_INVALID", path, message, advice: `Add ${key}.` });
  }
  return faults;
}

function unknownKey(key: string, known: readonly string[], matchers: [RegExp, Schema][], path: Path): Fault {
  const at = [...path, key];
  if (known.length === 0 && matchers.length > 0) {
    const message = `${JSON.stringify(key)} cannot be a name`;
    return { reason: "NAME_INVALID", path: at, message, advice: "Use letters, digits, dots, underscores and dashes." };
  }
  const meant = nearest(key, known);
  const allowed = known.length > 12 ? "" : ` Allowed: ${known.join(", ")}.`;
  const advice = `${meant === undefined ? "Leave it out, or name it x-… if it is yours." : `Did you mean ${meant}?`}${allowed}`;
  return { reason: "SCHEMA_UNKNOWN_KEY", path: at, message: `there is no key ${JSON.stringify(key)} here`, advice };
}
