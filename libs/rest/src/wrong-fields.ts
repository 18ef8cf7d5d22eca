/** Which fields of a JSON request are wrong, and what would be right. Only asked where decoding has failed. */
import { fromJson, ScalarType } from "@bufbuild/protobuf";
import type { DescField, DescMessage, JsonValue } from "@bufbuild/protobuf";
import type { Violation } from "@bowline/kernel";
import { shortened } from "./json-text.ts";
import { findField } from "./routes.ts";

/** The first `limit` wrong fields of `json` as a `message`; `path` is where it stands in the request. */
export function wrongFields(message: DescMessage, json: JsonValue, path: string, limit: number): Violation[] {
  const wrong: Violation[] = [];
  inMessage(message, json, path);
  return wrong;

  function add(field: string, description: string): void {
    if (wrong.length < limit) wrong.push({ field, description });
  }

  function inMessage(desc: DescMessage, value: JsonValue, at: string): void {
    if (wrong.length >= limit) return;
    if (typeof value !== "object" || value === null || Array.isArray(value)) return add(at, "must be an object");
    const seen = new Set<string>();
    const chosen = new Map<string, string>();
    for (const [key, item] of Object.entries(value)) {
      const field = findField(desc, key);
      if (field === undefined) {
        add(joined(at, shortened(key)), "is not known");
        continue;
      }
      const here = joined(at, field.name);
      if (seen.has(field.name)) add(here, "is there twice");
      seen.add(field.name);
      if (item === null) continue;
      if (field.oneof !== undefined) {
        const other = chosen.get(field.oneof.name);
        if (other !== undefined) add(here, `excludes ${other}: only one of the two may be set`);
        chosen.set(field.oneof.name, field.name);
      }
      inField(desc, field, key, item, here);
    }
  }

  function inField(desc: DescMessage, field: DescField, key: string, value: JsonValue, at: string): void {
    const fits = (json: JsonValue): boolean => decodes(desc, { [key]: json });
    if (field.fieldKind === "list") {
      if (!Array.isArray(value)) return add(at, "must be a list");
      for (const [index, item] of value.entries()) {
        if (field.message !== undefined && !isWellKnown(field.message))
          inMessage(field.message, item, `${at}[${index}]`);
        else if (!fits([item])) add(`${at}[${index}]`, expected(field));
      }
    } else if (field.fieldKind === "map") {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return add(at, "must be an object");
      for (const [name, item] of Object.entries(value)) {
        const here = `${at}[${JSON.stringify(shortened(name))}]`;
        if (field.message !== undefined && !isWellKnown(field.message)) inMessage(field.message, item, here);
        else if (!fits({ [name]: item })) add(here, expected(field));
      }
    } else if (field.fieldKind === "message" && !isWellKnown(field.message)) {
      inMessage(field.message, value, at);
    } else if (!fits(value)) add(at, expected(field));
  }
}

function joined(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

function decodes(message: DescMessage, json: JsonValue): boolean {
  try {
    fromJson(message, json);
    return true;
  } catch {
    return false; // that it fails is the answer
  }
}

/** Messages whose JSON is not an object of their fields. */
export function isWellKnown(message: DescMessage): boolean {
  return message.typeName.startsWith("google.protobuf.");
}

const scalars: Partial<Record<ScalarType, string>> = {
  [ScalarType.BOOL]: "must be true or false",
  [ScalarType.STRING]: "must be a string",
  [ScalarType.BYTES]: "must be base64",
  [ScalarType.DOUBLE]: "must be a number",
  [ScalarType.FLOAT]: "must be a number",
  [ScalarType.UINT32]: "must be an integer from 0 to 4294967295",
  [ScalarType.FIXED32]: "must be an integer from 0 to 4294967295",
  [ScalarType.UINT64]: "must be an integer from 0 to 18446744073709551615",
  [ScalarType.FIXED64]: "must be an integer from 0 to 18446744073709551615",
  [ScalarType.INT32]: "must be an integer from -2147483648 to 2147483647",
  [ScalarType.INT64]: "must be an integer of 64 bits",
};

const wellKnown: Record<string, string> = {
  "google.protobuf.Timestamp": "must be a time such as 2026-01-31T12:00:00Z",
  "google.protobuf.Duration": "must be a duration in seconds such as 90s",
  "google.protobuf.FieldMask": "must be field names, separated by commas",
  "google.protobuf.Struct": "must be an object",
};

/** What a field takes, as the end of a sentence that begins with its name. */
export function expected(field: DescField): string {
  if (field.enum !== undefined) return `must be one of ${field.enum.values.map(({ name }) => name).join(", ")}`;
  if (field.message !== undefined) return wellKnown[field.message.typeName] ?? `must be a ${field.message.name}`;
  return scalars[field.scalar ?? ScalarType.STRING] ?? "must be an integer";
}
