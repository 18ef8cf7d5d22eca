/**
 * A product as a YAML file: read, checked against the contract, and errors
 * led back to line and column, the server's included.
 *
 * M1: a key that the contract doesn't know is an error, not ignored: a
 *     misspelt `timeout` must not go live without one.
 */
import { fromJson, ScalarType } from "@bufbuild/protobuf";
import type { DescField, DescMessage, JsonObject, JsonValue } from "@bufbuild/protobuf";
import { ProductManifestSchema } from "@bowline/contract/products";
import type { ProductManifest } from "@bowline/contract/products";
import { LineCounter, parseDocument } from "yaml";
import type { Document } from "yaml";
import type { FieldViolation } from "./errors.ts";
import { usage } from "./failure.ts";
import type { Failure } from "./failure.ts";

/** A larger file is a mistake; the server's limit for a request is 4 MiB. */
const maxFileBytes = 4 * 1024 * 1024;
/** What a file says about itself, beside the manifest's fields. */
const header = { apiVersion: "bowline/v1", kind: "Product" } as const;
/** More than one screen of errors helps nobody. */
const maxProblems = 20;

type Path = readonly (string | number)[];
type Problem = { path: Path; message: string };

/** A manifest that was read, and the way back to its file. */
export type ReadManifest = {
  manifest: ProductManifest;
  /** `file:line:col: field: what is wrong`, for violations that the server names. */
  locate(violation: FieldViolation): string;
};

/** Reads a manifest. `name` is the file's name for messages. Fails with exit code 2 and every problem's place. */
export function readManifest(name: string, text: string): ReadManifest {
  if (Buffer.byteLength(text) > maxFileBytes) throw usage(`${name} is larger than ${maxFileBytes / 1024 / 1024} MiB`);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  if (document.errors.length > 0) {
    const problems = document.errors.map(({ pos, message }) => `${position(name, lines, pos[0])}: ${message}`);
    throw badFile(`${name} is not YAML.`, problems);
  }
  const place = (path: Path): string => position(name, lines, offsetOf(document, path));

  const content: unknown = document.toJS({ maxAliasCount: 100 });
  if (!isObject(content))
    throw badFile(`${name} is not a product.`, [`${place([])}: a mapping with apiVersion, kind, name, … belongs here`]);
  const { apiVersion, kind, ...fields } = content;
  const problems: Problem[] = [];
  if (apiVersion !== header.apiVersion)
    problems.push({ path: ["apiVersion"], message: `must be ${header.apiVersion}` });
  if (kind !== header.kind) problems.push({ path: ["kind"], message: `must be ${header.kind}` });
  check(ProductManifestSchema, fields, [], problems);
  if (problems.length > 0) {
    const told = problems.slice(0, maxProblems).map(({ path, message }) => `${place(path)}: ${show(path)}: ${message}`);
    if (problems.length > maxProblems) told.push(`and ${problems.length - maxProblems} more`);
    throw badFile(`${name} is not a product.`, told);
  }
  return {
    manifest: fromJson(ProductManifestSchema, fields),
    locate({ field, description }) {
      const path = pathOf(field, content);
      return `${place(path)}: ${show(path) || field}: ${description}`;
    },
  };
}

function badFile(message: string, lines: readonly string[]): Failure {
  return usage(message, { reason: "MANIFEST_INVALID", lines: [...lines, "Nothing was sent."] });
}

/** Finds what `fromJson` would refuse, with the path of each. */
function check(schema: DescMessage, value: unknown, path: Path, problems: Problem[]): void {
  if (schema.typeName.startsWith("google.protobuf.")) return checkWhole(schema, value, path, problems);
  if (!isObject(value)) return void problems.push({ path, message: "must be a mapping" });
  for (const [key, item] of Object.entries(value)) {
    const field = schema.fields.find(({ jsonName, name }) => key === jsonName || key === name);
    if (field === undefined) {
      const known = schema.fields.map(({ jsonName }) => jsonName).join(", ");
      problems.push({ path: [...path, key], message: `is not known; there are: ${known}` }); // M1
    } else if (item !== null) {
      checkField(schema, field, key, item, [...path, key], problems);
    }
  }
}

function checkField(
  schema: DescMessage,
  field: DescField,
  key: string,
  value: unknown,
  path: Path,
  problems: Problem[],
): void {
  if (field.fieldKind === "message") return check(field.message, value, path, problems);
  if (field.fieldKind === "list" && field.listKind === "message") {
    if (!Array.isArray(value)) return void problems.push({ path, message: "must be a list" });
    return value.forEach((item, index) => check(field.message, item, [...path, index], problems));
  }
  try {
    fromJson(schema, { [key]: value } as JsonObject);
  } catch {
    problems.push({ path, message: `must be ${wanted(field)}` });
  }
}

/** Durations and the like: one value of their own form. */
function checkWhole(schema: DescMessage, value: unknown, path: Path, problems: Problem[]): void {
  try {
    fromJson(schema, value as JsonValue);
  } catch {
    const form =
      schema.typeName === "google.protobuf.Duration" ? 'a time in seconds like "10s" or "0.5s"' : schema.name;
    problems.push({ path, message: `must be ${form}` });
  }
}

function wanted(field: DescField): string {
  const many = field.fieldKind === "list" ? "a list of " : field.fieldKind === "map" ? "a mapping of " : "";
  if (field.enum !== undefined)
    return `${many}${field.enum.values
      .slice(1)
      .map(({ name }) => name)
      .join(" or ")}`;
  if (field.scalar === ScalarType.STRING) return `${many}text (in quotes, if it looks like a number)`;
  if (field.scalar === ScalarType.BOOL) return `${many}true or false`;
  if (field.scalar === ScalarType.BYTES) return `${many}base64`;
  return `${many}a whole number`;
}

/**
 * The path of a field as a server names it (`manifest.api_services[0].name`,
 * in either spelling) in the spelling of the file.
 */
function pathOf(field: string, content: Record<string, unknown>): Path {
  const path: (string | number)[] = [];
  let at: unknown = content;
  for (const part of field.replace(/^manifest\.?/, "").matchAll(/([A-Za-z_]\w*)|\[(\d+)\]/g)) {
    if (part[2] !== undefined) {
      if (!Array.isArray(at)) break;
      path.push(Number(part[2]));
      at = at[Number(part[2])] as unknown;
      continue;
    }
    const name = part[1] ?? "";
    const spellings = [name, name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())];
    const owner = isObject(at) ? at : {};
    const key = spellings.find((spelling) => Object.hasOwn(owner, spelling)) ?? spellings[1] ?? name;
    path.push(key);
    at = owner[key];
  }
  return path;
}

/** Where the node of a path starts, or the nearest one above it that the file has. */
function offsetOf(document: Document.Parsed, path: Path): number {
  for (let length = path.length; length >= 0; length -= 1) {
    const node = length === 0 ? document.contents : document.getIn(path.slice(0, length), true);
    const range = (node as { range?: readonly number[] | null } | null | undefined)?.range;
    if (range?.[0] !== undefined) return range[0];
  }
  return 0;
}

function position(name: string, lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${name}:${Math.max(1, line)}:${Math.max(1, col)}`;
}

function show(path: Path): string {
  return path
    .map((part) => (typeof part === "number" ? `[${part}]` : `.${part}`))
    .join("")
    .replace(/^\./, "");
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
