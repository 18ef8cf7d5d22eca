/** The REST paths of the contract: every `google.api.http` binding of every method, checked at start. */
import { getOption, hasOption } from "@bufbuild/protobuf";
import type { DescField, DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { http } from "@bowline/contract/gen/google/api/annotations_pb";
import type { HttpRule } from "@bowline/contract/gen/google/api/http_pb";
import { matchTemplate, parseTemplate, splitPath } from "./template.ts";
import type { Template } from "./template.ts";

export const httpMethods = ["GET", "POST", "PUT", "PATCH", "DELETE"] as const;
export type HttpMethod = (typeof httpMethods)[number];

export type Route = {
  method: DescMethod & { methodKind: "unary" | "server_streaming" };
  httpMethod: HttpMethod;
  template: Template;
  /** `all`: the body is the request; `field`: it is one of its fields; `none`: there is no body. */
  body: { kind: "all" } | { kind: "field"; field: DescField } | { kind: "none" };
  /** 0: the method's own binding; 1 …: its additional ones. */
  binding: number;
};

/** Routes that share a path, by HTTP method; the variables are raw. */
export type Found = { route: Route; variables: Map<string, string> };

/** Reads the bindings. Throws on one that cannot be served: unknown fields, client streams, two for one path and method. */
export function routesOf(services: readonly DescService[]): Route[] {
  const routes: Route[] = [];
  for (const method of services.flatMap((service) => service.methods)) {
    if (!hasOption(method, http)) continue;
    const rule = getOption(method, http);
    for (const [binding, one] of [rule, ...rule.additionalBindings].entries())
      routes.push(routeOf(method, one, binding));
  }
  const seen = new Set<string>();
  for (const { httpMethod, template } of routes) {
    const shape = template.segments.map((segment) => ("literal" in segment ? segment.literal : "{}")).join("/");
    const key = `${httpMethod} /${shape}:${template.verb}`;
    if (seen.has(key)) throw new Error(`two methods are bound to ${key}`);
    seen.add(key);
  }
  return routes;
}

function routeOf(method: DescMethod, rule: HttpRule, binding: number): Route {
  const { methodKind } = method;
  const name = `${method.parent.typeName}.${method.name}`;
  if (methodKind !== "unary" && methodKind !== "server_streaming") {
    throw new Error(`${name} has a REST path, but REST has no client streams`);
  }
  const { case: kind, value: path } = rule.pattern;
  if (kind === undefined || kind === "custom") throw new Error(`${name} has a REST binding without an HTTP method`);
  const template = parseTemplate(path);
  for (const segment of template.segments) {
    if ("variable" in segment && fieldAt(method.input, segment.variable)?.fieldKind !== "scalar") {
      throw new Error(`${name}: {${segment.variable}} is no scalar field of ${method.input.typeName}`);
    }
  }
  const httpMethod = httpMethods.find((one) => one.toLowerCase() === kind);
  if (httpMethod === undefined) throw new Error(`${name}: HTTP method ${kind} is not served`);
  const route = { method: method as Route["method"], httpMethod, template, binding };
  if (rule.body === "") return { ...route, body: { kind: "none" } };
  if (rule.body === "*") return { ...route, body: { kind: "all" } };
  const field = findField(method.input, rule.body);
  if (field === undefined) throw new Error(`${name}: body ${rule.body} is no field of ${method.input.typeName}`);
  return { ...route, body: { kind: "field", field } };
}

/** Finds what a path leads to; empty where nothing is bound to it. Literal segments win over variables. */
export function routeFinder(routes: readonly Route[]): (path: string) => Found[] {
  const bySize = new Map<string, Route[]>();
  const keyOf = (size: number, verb: string): string => `${size}:${verb}`;
  const variablesOf = ({ template }: Route): number => template.segments.filter((part) => "variable" in part).length;
  for (const route of routes.toSorted((a, b) => variablesOf(a) - variablesOf(b))) {
    const key = keyOf(route.template.segments.length, route.template.verb);
    bySize.set(key, [...(bySize.get(key) ?? []), route]);
  }
  return (path) => {
    const split = splitPath(path);
    const found: Found[] = [];
    for (const route of bySize.get(keyOf(split.segments.length, split.verb)) ?? []) {
      const variables = matchTemplate(route.template, split);
      if (variables !== undefined) found.push({ route, variables });
    }
    return found;
  };
}

/** A field by either spelling: `display_name` or `displayName`. */
export function findField(message: DescMessage, name: string): DescField | undefined {
  return message.fields.find((field) => field.name === name || field.jsonName === name);
}

/** A field by its dotted path, each part in either spelling. */
export function fieldAt(message: DescMessage, path: string): DescField | undefined {
  let at: DescMessage | undefined = message;
  let field: DescField | undefined;
  for (const name of path.split(".")) {
    field = at === undefined ? undefined : findField(at, name);
    if (field === undefined) return undefined;
    at = field.fieldKind === "message" ? field.message : undefined;
  }
  return field;
}
