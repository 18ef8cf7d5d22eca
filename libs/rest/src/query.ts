/** Query parameters as fields of the request: dotted names, either spelling, repeated for lists. */
import { fromJson, ScalarType } from "@bufbuild/protobuf";
import type { DescField, DescMessage, JsonValue } from "@bufbuild/protobuf";
import { problem } from "@bowline/kernel";
import type { Violation } from "@bowline/kernel";
import { shortened } from "./json-text.ts";
import { findField } from "./routes.ts";
import { expected } from "./wrong-fields.ts";

/** One parameter whose field is found; `path` holds the fields from the request down. */
export type Parameter = { path: readonly DescField[]; value: JsonValue };

/** Splits and decodes. Throws INVALID_ARGUMENT where the percent-encoding is broken or there are too many. */
export function splitQuery(query: string, maxParameters: number): [name: string, value: string][] {
  const parts = query.split("&", maxParameters + 1).filter((part) => part !== "");
  if (parts.length > maxParameters) {
    throw problem("INVALID_ARGUMENT", `More than ${maxParameters} query parameters are not taken.`);
  }
  return parts.map((part) => {
    const equals = part.indexOf("=");
    const name = equals < 0 ? part : part.slice(0, equals);
    const value = equals < 0 ? "" : part.slice(equals + 1);
    return [decoded(name.replaceAll("+", " "), "query"), decoded(value.replaceAll("+", " "), shortened(name))];
  });
}

/** Decodes a percent-encoded part. Throws INVALID_ARGUMENT, which names `where`, also for control characters. */
export function decoded(raw: string, where: string): string {
  let text: string;
  try {
    text = decodeURIComponent(raw);
  } catch {
    throw wrong(where, "is not valid percent-encoding of UTF-8");
  }
  if (/\p{Cc}/u.test(text)) throw wrong(where, "contains a control character");
  return text;
}

function wrong(field: string, description: string): Error {
  return problem("INVALID_ARGUMENT", `${field} ${description}.`, { violations: [{ field, description }] });
}

/**
 * Finds the field of each parameter and reads its value. Throws
 * INVALID_ARGUMENT that names every unknown, repeated or wrong one, up to `maxViolations`.
 */
export function readQuery(
  message: DescMessage,
  pairs: readonly [name: string, value: string][],
  maxViolations: number,
): Parameter[] {
  const byField = new Map<string, { path: DescField[]; values: JsonValue[] }>();
  const violations: Violation[] = [];
  for (const [name, text] of pairs) {
    const path = fieldsAt(message, name);
    const field = path?.at(-1);
    const key = path?.map((part) => part.name).join(".") ?? "";
    if (path === undefined || field === undefined || !fromText(field)) {
      violations.push({ field: shortened(name), description: "is no query parameter of this method" });
      continue;
    }
    const known = byField.get(key) ?? { path, values: [] };
    byField.set(key, known);
    const value = valueOf(field, text);
    if (value === undefined) violations.push({ field: key, description: expected(field) });
    else if (known.values.length > 0 && field.fieldKind !== "list") {
      violations.push({ field: key, description: "is there twice" });
    } else known.values.push(value);
  }
  const first = violations[0];
  if (first !== undefined) {
    throw problem("INVALID_ARGUMENT", `${first.field} ${first.description}.`, {
      violations: violations.slice(0, maxViolations),
    });
  }
  return [...byField.values()].map(({ path, values }) => ({
    path,
    value: path.at(-1)?.fieldKind === "list" ? values : (values[0] ?? null),
  }));
}

/** True for fields that a query parameter can be: values, lists of values, and messages that JSON writes as a string. */
export function fromText(field: DescField): boolean {
  if (field.fieldKind === "map") return false;
  return field.message === undefined || textMessages.has(field.message.typeName);
}

const textMessages = new Set(["google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"]);

function fieldsAt(message: DescMessage, name: string): DescField[] | undefined {
  let at: DescMessage | undefined = message;
  const path: DescField[] = [];
  for (const part of name.split(".")) {
    const field: DescField | undefined = at === undefined ? undefined : findField(at, part);
    if (field === undefined) return undefined;
    path.push(field);
    at = field.fieldKind === "message" ? field.message : undefined;
  }
  return path;
}

const integers = new Set([
  ScalarType.INT32,
  ScalarType.INT64,
  ScalarType.UINT32,
  ScalarType.UINT64,
  ScalarType.SINT32,
  ScalarType.SINT64,
  ScalarType.FIXED32,
  ScalarType.FIXED64,
  ScalarType.SFIXED32,
  ScalarType.SFIXED64,
]);

/** The text as the field's JSON; undefined where it does not fit. */
function valueOf(field: DescField, text: string): JsonValue | undefined {
  const value = jsonOf(field, text);
  if (value === undefined) return undefined;
  try {
    fromJson(field.parent, { [field.jsonName]: field.fieldKind === "list" ? [value] : value });
    return value;
  } catch {
    return undefined; // the caller says what would fit
  }
}

function jsonOf(field: DescField, text: string): JsonValue | undefined {
  if (field.enum !== undefined) return /^-?\d{1,10}$/.test(text) ? Number(text) : text;
  if (field.message?.typeName === "google.protobuf.FieldMask") return camelMask(text);
  if (field.scalar === ScalarType.BOOL) return text === "true" ? true : text === "false" ? false : undefined;
  if (field.scalar !== undefined && integers.has(field.scalar)) return /^-?\d{1,20}$/.test(text) ? text : undefined;
  if (field.scalar === ScalarType.DOUBLE || field.scalar === ScalarType.FLOAT) {
    return text === "" ? undefined : Number.isNaN(Number(text)) ? undefined : Number(text);
  }
  return text;
}

/** JSON writes masks in lowerCamelCase; people write them as the fields are documented. */
export function camelMask(text: string): string {
  return text.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
