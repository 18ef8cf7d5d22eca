/** One REST binding as an OpenAPI operation. */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { getOption, hasOption } from "@bufbuild/protobuf";
import { methodAccess } from "@bowline/contract";
import { rest } from "@bowline/contract/options";
import { comments } from "../gen/comments.ts";
import { fromText } from "../query.ts";
import { etagPath } from "../request.ts";
import { fieldAt, findField } from "../routes.ts";
import type { Route } from "../routes.ts";
import { isRequired } from "./rules.ts";
import type { Schema } from "./rules.ts";
import { described } from "./schemas.ts";
import type { Schemas } from "./schemas.ts";

/** The group of a path: `operator` of `/v1/operator/…`. */
export function groupOf({ template }: Route): string {
  const segment = template.segments[1];
  return segment !== undefined && "literal" in segment ? segment.literal : "";
}

/**
 * The operation. `names` are the path's parameters in order: OpenAPI wants the
 * same ones for all methods of a path, whatever their fields are called.
 */
export function operationOf(route: Route, operationId: string, names: readonly string[], schemas: Schemas): Schema {
  const { method } = route;
  const description = comments[`${method.parent.typeName}.${method.name}`] ?? "";
  const access = methodAccess(method);
  const body = bodyOf(route, schemas);
  return {
    operationId,
    tags: [groupOf(route)],
    summary: firstSentence(description),
    description,
    ...(access.kind === "public" && { security: [] }),
    ...(access.kind === "any-principal" && { security: [{ bearer: [] }] }),
    ...(access.kind === "roles" && { security: [{ bearer: access.roles }] }),
    parameters: [...inPath(route, names, schemas), ...inQuery(route, schemas), ...inHeader(route)],
    ...(body !== undefined && { requestBody: body }),
    responses: { ...successes(route, schemas), "4XX": failure, "5XX": failure },
    ...(method.proto.options?.deprecated === true && { deprecated: true }),
  };
}

const failure: Schema = { $ref: "#/components/responses/Failure" };

function firstSentence(text: string): string {
  return /^.*?[.:](?=\s|$)/s.exec(text)?.[0].replace(/[.:]$/, "") ?? text;
}

function inPath(route: Route, names: readonly string[], schemas: Schemas): Schema[] {
  return variablesOf(route).map(({ field }, at) => {
    const { description, ...schema } = schemas.field(field);
    return {
      name: names[at],
      in: "path",
      required: true,
      ...(description !== undefined && { description }),
      schema: { minLength: 1, ...schema, readOnly: undefined },
    };
  });
}

/** The fields that the path sets, in its order. */
export function variablesOf({ method, template }: Route): { path: string; field: DescField }[] {
  return template.segments.flatMap((segment) => {
    if ("literal" in segment) return [];
    const field = fieldAt(method.input, segment.variable);
    return field === undefined ? [] : [{ path: segment.variable, field }];
  });
}

function inQuery(route: Route, schemas: Schemas): Schema[] {
  if (route.body.kind === "all") return [];
  const taken = new Set(variablesOf(route).map(({ path }) => path));
  if (route.body.kind === "field") taken.add(route.body.field.name);
  return parametersOf(route.method.input, "", "", taken, new Set()).map(({ name, field }) => {
    const { description, ...schema } = schemas.field(field);
    return {
      name,
      in: "query",
      required: isRequired(field),
      ...(description !== undefined && { description }),
      schema,
    };
  });
}

/** Fields that a query can set, with those of inner messages by their dotted names. */
function parametersOf(
  message: DescMessage,
  path: string,
  name: string,
  taken: ReadonlySet<string>,
  inside: ReadonlySet<string>,
): { name: string; field: DescField }[] {
  return message.fields.flatMap((field) => {
    const here = path + field.name;
    if (taken.has(here)) return [];
    if (fromText(field)) return [{ name: name + field.jsonName, field }];
    if (field.fieldKind !== "message" || inside.has(field.message.typeName)) return [];
    const within = new Set([...inside, message.typeName]);
    return parametersOf(field.message, `${here}.`, `${name}${field.jsonName}.`, taken, within);
  });
}

function inHeader(route: Route): Schema[] {
  const { input, methodKind } = route.method;
  const etag = route.httpMethod !== "GET" && etagPath(route) !== undefined;
  const key = findField(input, "request_id") !== undefined;
  const event = methodKind === "server_streaming" && findField(input, "cursor") !== undefined;
  const names = [...(etag ? ["IfMatch"] : []), ...(key ? ["IdempotencyKey"] : []), ...(event ? ["LastEventId"] : [])];
  return names.map((name) => ({ $ref: `#/components/parameters/${name}` }));
}

function bodyOf(route: Route, schemas: Schemas): Schema | undefined {
  if (route.body.kind === "none") return undefined;
  const { input } = route.method;
  if (route.body.kind === "field") {
    const { field } = route.body;
    return {
      required: true,
      ...described(`${input.typeName}.${field.name}`),
      content: { "application/json": { schema: schemas.field(field) } },
    };
  }
  const inPath = new Set(variablesOf(route).map(({ path }) => path));
  const fields = input.fields.filter(({ name }) => !inPath.has(name));
  const schema = fields.length === input.fields.length ? schemas.message(input) : schemas.part(input, fields);
  return { required: fields.some(isRequired), content: { "application/json": { schema } } };
}

function successes(route: Route, schemas: Schemas): Schema {
  const { method } = route;
  const schema = schemas.message(method.output);
  const streams = method.methodKind === "server_streaming";
  const headers = {
    "X-Request-Id": { $ref: "#/components/headers/RequestId" },
    ...(!streams && findField(method.output, "etag") !== undefined && { ETag: { $ref: "#/components/headers/ETag" } }),
  };
  const content = streams
    ? {
        "application/x-ndjson": { schema },
        "text/event-stream": { schema: { type: "string", description: "Events whose `data` is one such message." } },
      }
    : { "application/json": { schema } };
  const description = streams ? "One message a line, as they come." : (comments[method.output.typeName] ?? "Done.");
  return Object.fromEntries(statusesOf(route).map((status) => [status, { description, headers, content }]));
}

function statusesOf({ method }: Route): number[] {
  if (!hasOption(method, rest)) return [200];
  const { successStatus, whenField, whenStatus } = getOption(method, rest);
  return [successStatus === 0 ? 200 : successStatus, ...(whenField === "" ? [] : [whenStatus])];
}
