/** The OpenAPI document that a server serves is what that server answers. */
import { request } from "node:http";
import { beforeAll, expect, test } from "@jest/globals";
import { reasons } from "@bowline/kernel";
import { startServer, type TestServer } from "@bowline/testing";

interface Operation {
  operationId: string;
  tags: string[];
  security?: object[];
  parameters?: { name: string; in: string; required?: boolean; $ref?: string }[];
  requestBody?: object;
  responses: Record<string, object>;
}

interface Document {
  openapi: string;
  tags: { name: string }[];
  paths: Record<string, Record<string, Operation>>;
  security: object[];
}

interface Asked {
  path: string;
  method: string;
  operation: Operation;
}

let server: TestServer;
let document: Document;
let operations: Asked[];

beforeAll(async () => {
  server = await startServer();
  const answer = await ask("GET", "/openapi.json", "");
  expect(answer).toMatchObject({ status: 200, contentType: "application/json" });
  document = JSON.parse(answer.body) as Document;
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  );
});

interface Answer {
  status: number;
  contentType: string;
  body: string;
}

/** The answer; of a stream only what comes with its head. */
function ask(method: string, path: string, token: string, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = {
      ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    };
    const sent = request(`${server.url}${path}`, { method, headers, agent: false, timeout: 10_000 }, (response) => {
      const contentType = response.headers["content-type"] ?? "";
      let text = "";
      const done = (): void => {
        resolve({ status: response.statusCode ?? 0, contentType, body: text });
        sent.destroy();
      };
      if (contentType === "application/x-ndjson") return done();
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", done);
    });
    sent.on("timeout", () => sent.destroy(new Error(`${method} ${path}: no answer within 10 s`)));
    sent.on("error", reject).end(body);
  });
}

/** The path with something in place of its variables that looks like an id, and names nothing. */
/** With values that fit their fields: a wrong one is told to anybody, before it is asked who calls. */
const filled = (path: string): string =>
  path.replaceAll(/\{(generation|number)\}/g, "7").replaceAll(/\{[^}]+\}/g, "nobody-7");

const bodyFor = ({ operation }: Asked): string | undefined => (operation.requestBody === undefined ? undefined : "{}");

test("the document is OpenAPI 3.1, and each of its references leads somewhere", () => {
  expect(document.openapi).toMatch(/^3\.1\./);
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path]) => path ?? "");
  expect(references.length).toBeGreaterThan(0);
  const dead = references.filter((path) => {
    let at: unknown = document;
    for (const part of path.split("/")) at = (at as Record<string, unknown> | undefined)?.[decodeURIComponent(part)];
    return at === undefined;
  });
  expect(dead).toEqual([]);
});

test("operation ids are unique, tags are declared, and each variable of a path is a parameter", () => {
  const ids = operations.map(({ operation }) => operation.operationId);
  expect(new Set(ids).size).toBe(ids.length);
  const declared = document.tags.map(({ name }) => name);
  for (const { path, operation } of operations) {
    expect(declared).toEqual(expect.arrayContaining(operation.tags));
    const variables = [...path.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name ?? "");
    const parameters = operation.parameters?.filter((parameter) => parameter.in === "path") ?? [];
    expect(new Set(parameters.map(({ name }) => name))).toEqual(new Set(variables));
    expect(parameters.every(({ required }) => required === true)).toBe(true);
  }
});

test("each path and method answers: with a success, or with a refusal of what was asked", async () => {
  expect(operations.length).toBeGreaterThan(60);
  const wrong: string[] = [];
  for (const asked of operations) {
    const { status, body } = await ask(asked.method, filled(asked.path), server.adminToken, bodyFor(asked));
    const line = `${asked.method} ${asked.path}: ${status} ${body.slice(0, 300)}`;
    if (status >= 200 && status < 300) {
      if (asked.operation.responses[String(status)] === undefined) wrong.push(`not documented: ${line}`);
      continue;
    }
    const { reason } = JSON.parse(body) as { reason?: string };
    if (status >= 500 || reason === undefined || !(reason in reasons)) wrong.push(line);
    else if (["UNKNOWN_METHOD", "METHOD_NOT_ALLOWED", "INTERNAL", "MALFORMED_BODY"].includes(reason)) wrong.push(line);
  }
  expect(wrong).toEqual([]);
});

test("each path that needs a credential refuses without one, and no other does", async () => {
  const wrong: string[] = [];
  for (const asked of operations) {
    const { status } = await ask(asked.method, filled(asked.path), "", bodyFor(asked));
    const open = asked.operation.security?.length === 0;
    if ((status === 401) === open) wrong.push(`${asked.method} ${asked.path}: ${status}`);
  }
  expect(wrong).toEqual([]);
});

test("a path that the document does not have is 404, a method that it does not have 405", async () => {
  for (const [method, path, status] of [
    ["GET", "/v1/operator/nothing", 404],
    ["GET", "/v1", 404],
    ["PUT", "/v1/operator/clusters", 405],
    ["GET", "/v1/provider/products:apply", 405],
  ] as const) {
    expect([path, (await ask(method, path, server.adminToken)).status]).toEqual([path, status]);
  }
});
