/**
 * The request message of one REST call, out of path, query, body and headers.
 *
 * R1: the path wins over the body, so that what was read can be sent back.
 * R2: nothing that was sent is ignored: what is unknown, twice or out of place is refused by name.
 */
import { fromJson } from "@bufbuild/protobuf";
import type { DescField, DescMessage, JsonObject, JsonValue, Message, Registry } from "@bufbuild/protobuf";
import { problem } from "@bowline/kernel";
import { camelMask, decoded, readQuery, splitQuery } from "./query.ts";
import type { RestLimits } from "./limits.ts";
import { fieldAt, findField } from "./routes.ts";
import type { Route } from "./routes.ts";
import { isWellKnown, wrongFields } from "./wrong-fields.ts";

export type Parts = {
  /** Raw values of the path's variables. */
  variables: ReadonlyMap<string, string>;
  /** What follows the question mark, raw. */
  query: string;
  /** Undefined: an empty body. */
  body: JsonValue | undefined;
  ifMatch: string | undefined;
  idempotencyKey: string | undefined;
  lastEventId: string | undefined;
};

type Bounds = Pick<RestLimits, "maxQueryParameters" | "maxViolations">;

/** Throws INVALID_ARGUMENT with the fields that are wrong. */
export function requestOf(route: Route, parts: Parts, bounds: Bounds, registry?: Registry): Message {
  const input = route.method.input;
  const json = fromBody(route, parts.body);
  for (const [path, raw] of parts.variables) setAt(json, fieldsOf(input, path), decoded(raw, path), "replace"); // R1
  const parameters = readQuery(input, splitQuery(parts.query, bounds.maxQueryParameters), bounds.maxViolations);
  for (const { path, value } of parameters) setAt(json, path, value, "refuse");
  deriveMask(route, json, parts);
  fromHeaders(route, json, parts);
  try {
    return fromJson(input, json, { registry });
  } catch (error) {
    const violations = wrongFields(input, json, "", bounds.maxViolations);
    const first = violations[0];
    const message =
      first === undefined ? "The request does not fit its fields." : `${first.field} ${first.description}.`;
    throw problem("INVALID_ARGUMENT", message, { violations, cause: error });
  }
}

function fromBody(route: Route, body: JsonValue | undefined): JsonObject {
  switch (route.body.kind) {
    case "none":
      if (body !== undefined) throw problem("MALFORMED_BODY", "This method takes no body.");
      return {};
    case "field":
      return body === undefined ? {} : { [route.body.field.jsonName]: body };
    case "all":
      if (body === undefined) return {};
      if (typeof body !== "object" || body === null || Array.isArray(body)) {
        throw problem("INVALID_ARGUMENT", "The body must be a JSON object.");
      }
      return { ...body };
    default:
      return route.body satisfies never;
  }
}

function fieldsOf(message: DescMessage, path: string): DescField[] {
  const names = path.split(".");
  return names.flatMap((_, at) => fieldAt(message, names.slice(0, at + 1).join(".")) ?? []);
}

/** Sets a value below `json`. `refuse`: throws INVALID_ARGUMENT where there is one. What stands in its way is left for decoding to refuse. */
function setAt(json: JsonObject, path: readonly DescField[], value: JsonValue, occupied: "replace" | "refuse"): void {
  let at = json;
  for (const [depth, field] of path.entries()) {
    const key = Object.hasOwn(at, field.name) ? field.name : field.jsonName;
    if (depth === path.length - 1) {
      if (occupied === "refuse" && Object.hasOwn(at, key)) {
        const name = path.map((part) => part.name).join(".");
        const description = "is in the path or the body already";
        throw problem("INVALID_ARGUMENT", `${name} ${description}.`, { violations: [{ field: name, description }] });
      }
      if (field.name !== field.jsonName && occupied === "replace") delete at[field.name];
      at[occupied === "replace" ? field.jsonName : key] = value;
      return;
    }
    const inner = at[key] ?? {};
    if (typeof inner !== "object" || Array.isArray(inner)) return;
    const copy = { ...inner };
    at[key] = copy;
    at = copy;
  }
}

/**
 * PATCH without a mask changes the fields that the body has. An object is
 * merged one level deep, as deep as masks go; maps and lists are replaced
 * whole; `null` clears.
 */
function deriveMask(route: Route, json: JsonObject, parts: Parts): void {
  const mask = findField(route.method.input, "update_mask");
  if (route.httpMethod !== "PATCH" || mask === undefined || Object.hasOwn(json, mask.jsonName)) return;
  if (route.body.kind !== "field" || route.body.field.message === undefined) return;
  const inPath = new Set([...parts.variables.keys()].map((path) => path.split(".").at(-1)));
  const paths = fieldsIn(route.body.field.message, parts.body).flatMap(([field, value]) => {
    if (inPath.has(field.name) || field.name === "etag") return [];
    const merged = field.fieldKind === "message" && !isWellKnown(field.message) ? fieldsIn(field.message, value) : [];
    return merged.length === 0 ? [field.name] : merged.map(([inner]) => `${field.name}.${inner.name}`);
  });
  if (paths.length > 0) json[mask.jsonName] = camelMask(paths.join(","));
}

/** The fields of a message that an object has; what it has beside them is refused when it is decoded. */
function fieldsIn(message: DescMessage, json: JsonValue | undefined): [DescField, JsonValue][] {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return [];
  return Object.entries(json).flatMap(([key, value]): [DescField, JsonValue][] => {
    const field = findField(message, key);
    return field === undefined ? [] : [[field, value]];
  });
}

function fromHeaders(route: Route, json: JsonObject, parts: Parts): void {
  const input = route.method.input;
  if (parts.lastEventId !== undefined && parts.lastEventId !== "") {
    const cursor = findField(input, "cursor");
    // A browser that reconnects repeats the URL, cursor included; what it saw last is newer.
    if (cursor !== undefined) setAt(json, [cursor], parts.lastEventId, "replace");
  }
  if (parts.idempotencyKey !== undefined) {
    const requestId = findField(input, "request_id");
    if (requestId !== undefined) setAt(json, [requestId], parts.idempotencyKey, "refuse");
  }
  if (parts.ifMatch !== undefined && parts.ifMatch !== "*" && route.httpMethod !== "GET") {
    const path = etagPath(route);
    if (path === undefined) {
      throw problem("INVALID_ARGUMENT", "If-Match guards nothing here: this method takes no etag.");
    }
    setAt(json, path, etagOf(parts.ifMatch), "replace");
  }
}

/** Where a method takes an etag: beside its fields, or in the resource that is its body. */
export function etagPath(route: Route): DescField[] | undefined {
  const own = findField(route.method.input, "etag");
  if (own !== undefined) return [own];
  if (route.body.kind !== "field" || route.body.field.message === undefined) return undefined;
  const inner = findField(route.body.field.message, "etag");
  return inner === undefined ? undefined : [route.body.field, inner];
}

function etagOf(header: string): string {
  const value = /^\s*(?:W\/)?"([^"]*)"\s*$/.exec(header)?.[1] ?? /^[^\s",]+$/.exec(header.trim())?.[0];
  if (value === undefined) throw problem("INVALID_ARGUMENT", 'If-Match takes one etag, e.g. If-Match: "3".');
  return value;
}
