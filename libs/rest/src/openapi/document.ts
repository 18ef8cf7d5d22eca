/**
 * The OpenAPI 3.1 document of the REST paths, from the same descriptors that answer them.
 *
 *   operations.ts  one binding     schemas.ts  messages and enums     rules.ts  their bounds
 */
import { reasons } from "@bowline/kernel";
import { codeNames } from "../failures.ts";
import type { Route } from "../routes.ts";
import { httpMethods } from "../routes.ts";
import { groupOf, operationOf, variablesOf } from "./operations.ts";
import type { Schema } from "./rules.ts";
import { collectSchemas } from "./schemas.ts";

/** What the document says about the server that serves it. */
export type OpenApiInfo = {
  title?: string;
  version?: string;
  /** Default: `/`, the server that the document came from. */
  serverUrl?: string;
};

const groups: Record<string, string> = {
  operator: "Clusters, agents, registration tokens, commands, people, audit.",
  provider: "What an organisation offers and runs.",
  customer: "Applications, subscriptions and credentials.",
  public: "What everybody may see.",
  agent: "What agents call.",
  auth: "Who calls.",
};

const about = `JSON is proto3 JSON: names in lowerCamelCase (snake_case is taken too), times as RFC 3339,
durations in seconds (\`90s\`), 64-bit numbers as strings. Unknown fields and parameters are refused.

Failures have a stable \`reason\`; switch on it and never on the message.
Lists take \`pageSize\` and \`pageToken\`. Updates are merged: fields that the body has are changed, \`null\` clears.
Watches are NDJSON, or server-sent events with \`Accept: text/event-stream\`.`;

export function openApiDocument(routes: readonly Route[], info: OpenApiInfo = {}): object {
  const schemas = collectSchemas();
  const paths: Record<string, Schema> = {};
  const ids = new Set<string>();
  for (const [, sharing] of Map.groupBy(routes, shapeOf)) {
    const [first] = sharing;
    if (first === undefined) continue;
    const names = variablesOf(first).map(({ field }) => field.jsonName);
    const operations = sharing
      .toSorted((a, b) => httpMethods.indexOf(a.httpMethod) - httpMethods.indexOf(b.httpMethod))
      .map((route): [string, Schema] => [
        route.httpMethod.toLowerCase(),
        operationOf(route, operationId(route, ids), names, schemas),
      ]);
    paths[pathOf(first, names)] = Object.fromEntries(operations);
  }
  const used = [...new Set(routes.map(groupOf))].toSorted();
  const document = {
    openapi: "3.1.0",
    info: { title: info.title ?? "Bowline", version: info.version ?? "v1", description: about },
    servers: [{ url: info.serverUrl ?? "/" }],
    security: [{ bearer: [] }],
    tags: used.map((name) => ({ name, description: groups[name] ?? name })),
    paths: Object.fromEntries(Object.entries(paths).toSorted(([a], [b]) => (a < b ? -1 : 1))),
    components: {
      securitySchemes: { bearer: { type: "http", scheme: "bearer", description: "An API token, `bwt_…`." } },
      parameters,
      headers,
      responses: {
        Failure: {
          description: "It failed; the body says why.",
          headers: { "X-Request-Id": { $ref: "#/components/headers/RequestId" }, "Retry-After": retryAfter },
          content: { "application/json": { schema: { $ref: "#/components/schemas/Failure" } } },
        },
      },
      schemas: { ...schemas.components(), Failure: failureSchema },
    },
  };
  return JSON.parse(JSON.stringify(document)) as object; // without what is undefined
}

/** Paths that differ in the names of their variables only are one path to OpenAPI. */
function shapeOf({ template }: Route): string {
  const segments = template.segments.map((segment) => ("literal" in segment ? segment.literal : "{}"));
  return `/${segments.join("/")}:${template.verb}`;
}

function pathOf({ template }: Route, names: readonly string[]): string {
  let at = 0;
  const segments = template.segments.map((segment) => ("literal" in segment ? segment.literal : `{${names[at++]}}`));
  return `/${segments.join("/")}${template.verb === "" ? "" : `:${template.verb}`}`;
}

/** The method's name; of a further binding with its group, or with its number where that is taken too. */
function operationId(route: Route, taken: Set<string>): string {
  const name = route.method.name.charAt(0).toLowerCase() + route.method.name.slice(1);
  const group = groupOf(route);
  const withGroup = `${name}As${group.charAt(0).toUpperCase()}${group.slice(1)}`;
  const candidates = route.binding === 0 ? [name] : [withGroup];
  const id = [...candidates, `${name}${route.binding + 1}`].find((one) => !taken.has(one));
  if (id === undefined) throw new Error(`no operationId is left for ${route.method.parent.typeName}.${name}`);
  taken.add(id);
  return id;
}

const retryAfter = { description: "Seconds to wait, on 429 and 503.", schema: { type: "integer", minimum: 0 } };

const headers = {
  RequestId: { description: "The request's id, as in the server's log.", schema: { type: "string" } },
  ETag: { description: "The resource's etag, for If-Match.", schema: { type: "string" } },
};

const parameters = {
  IfMatch: {
    name: "If-Match",
    in: "header",
    description: "The ETag that was read. A stale one fails with STALE_ETAG.",
    schema: { type: "string" },
  },
  IdempotencyKey: {
    name: "Idempotency-Key",
    in: "header",
    description: "Makes a repeated request safe: the same key and request give the same answer.",
    schema: { type: "string", maxLength: 128 },
  },
  LastEventId: {
    name: "Last-Event-ID",
    in: "header",
    description: "Goes on after this event; browsers send it by themselves. Wins over `cursor`.",
    schema: { type: "string" },
  },
};

const failureSchema: Schema = {
  type: "object",
  description: "A failure: the Connect error, with its reason and wrong fields beside it.",
  required: ["code", "message", "reason", "requestId"],
  properties: {
    code: {
      type: "string",
      description: "The code of Connect and gRPC.",
      enum: codeNames,
    },
    message: { type: "string", description: "For people; may change." },
    reason: {
      type: "string",
      description: `Stable; switch on it. New ones may come. Known now:\n\n${Object.entries(reasons)
        .map(([reason, { summary }]) => `- \`${reason}\`: ${summary}`)
        .join("\n")}`,
      examples: ["NOT_FOUND"],
    },
    requestId: { type: "string", description: "The request's id, as in the server's log." },
    fieldViolations: {
      type: "array",
      items: {
        type: "object",
        required: ["field", "description"],
        properties: { field: { type: "string" }, description: { type: "string" } },
      },
    },
    details: {
      type: "array",
      description: "The same for Connect's clients: messages of google.rpc.",
      items: {
        type: "object",
        required: ["type", "value"],
        properties: { type: { type: "string" }, value: { type: "string", contentEncoding: "base64" }, debug: {} },
      },
    },
  },
};
