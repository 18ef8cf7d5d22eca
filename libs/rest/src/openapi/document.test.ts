import { expect, test } from "@jest/globals";
import { Validator } from "@seriousme/openapi-schema-validator";
import { createRouterTransport } from "@connectrpc/connect";
import { services } from "@bowline/contract";
import { readComments } from "../../scripts/comments.ts";
import { comments } from "../gen/comments.ts";
import { createRest } from "../rest.ts";
import { routesOf } from "../routes.ts";

type Any = Record<string, any>;

const document = createRest({
  services,
  transport: createRouterTransport(() => {}),
  log: { error() {} },
  info: { version: "0.1.0" },
}).openapi() as Any;

const operations = Object.entries(document["paths"] as Any).flatMap(([path, item]) =>
  Object.entries(item as Any).map(([method, operation]) => ({ path, method, operation: operation as Any })),
);

test("the document is valid OpenAPI 3.1, and all its references lead somewhere", async () => {
  const validator = new Validator();
  const result = await validator.validate(structuredClone(document));
  expect(result).toEqual({ valid: true });
  expect(validator.version).toBe("3.1");
  const references = JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g);
  for (const [, reference] of references) {
    const found = (reference ?? "")
      .split("/")
      .reduce((at: Any | undefined, key) => at?.[key] as Any | undefined, document);
    expect([reference, typeof found]).toEqual([reference, "object"]);
  }
});

test("every binding of the contract is in it, once", () => {
  expect(operations).toHaveLength(routesOf(services).length);
  const ids = operations.map(({ operation }) => operation["operationId"] as string);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).toEqual(expect.arrayContaining(["listClusters", "listClustersAsProvider", "watchCommands"]));
});

test("every operation and every parameter has a description; no two paths differ in names only", () => {
  for (const { path, method, operation } of operations) {
    expect([method, path, operation["description"]]).toEqual([method, path, expect.stringMatching(/\w/)]);
    expect(operation["summary"]).toMatch(/^[A-Z`].{3,150}$/s);
    expect(operation["tags"]).toHaveLength(1);
    for (const parameter of operation["parameters"] as Any[]) {
      if (parameter["$ref"] === undefined) expect([path, parameter["description"]]).toEqual([path, expect.any(String)]);
    }
  }
  const shapes = Object.keys(document["paths"] as Any).map((path) => path.replace(/\{[^}]*\}/g, "{}"));
  expect(new Set(shapes).size).toBe(shapes.length);
});

test("path parameters are those of the path, whatever their fields are called", () => {
  for (const { path, operation } of operations) {
    const inPath = (operation["parameters"] as Any[])
      .filter((one) => one["in"] === "path")
      .map((one) => String(one["name"]));
    expect(inPath).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name));
  }
  expect(document["paths"]["/v1/operator/clusters/{id}"]).toMatchObject({ get: {}, patch: {}, delete: {} });
});

test("access rules are security requirements", () => {
  const paths = document["paths"] as Any;
  expect(paths["/v1/agent/enroll"].post.security).toEqual([]);
  expect(paths["/v1/auth/me"].get.security).toEqual([{ bearer: [] }]);
  expect(paths["/v1/operator/clusters"].post.security).toEqual([{ bearer: ["admin", "operator"] }]);
});

test("successes have the contract's status, streams their content types", () => {
  const paths = document["paths"] as Any;
  const statuses = (path: string, method: string): string[] => Object.keys(paths[path][method].responses);
  expect(statuses("/v1/operator/clusters", "post")).toEqual(["201", "4XX", "5XX"]);
  expect(statuses("/v1/provider/product-publishes", "post")).toEqual(["201", "202", "4XX", "5XX"]);
  expect(statuses("/v1/operator/clusters/{id}", "delete")).toEqual(["200", "4XX", "5XX"]);
  expect(Object.keys(paths["/v1/operator/commands:watch"].get.responses[200].content)).toEqual([
    "application/x-ndjson",
    "text/event-stream",
  ]);
});

test("schemas carry the bounds of validation", () => {
  const { schemas } = document["components"] as Any;
  expect(schemas.Cluster.properties).toMatchObject({
    name: { type: "string", pattern: "^([a-z][a-z0-9-]{0,62})?$", description: expect.stringContaining("Unique") },
    displayName: { maxLength: 200 },
    runtime: { enum: ["", "docker", "kubernetes", "local"] },
    labels: { type: "object", maxProperties: 64, additionalProperties: { type: "string" } },
    capabilities: { type: "array", maxItems: 64, items: { type: "string", maxLength: 100 } },
    state: { $ref: "#/components/schemas/Cluster.State", readOnly: true },
    agentsOnline: { type: "integer", minimum: 0, readOnly: true },
    createdAt: { format: "date-time" },
  });
  expect(schemas["Cluster.State"].enum).toContain("ONLINE");
  expect(schemas.ProductManifest.required).toEqual(["name", "apiServices"]);
  expect(schemas.CreateProductPublishRequest).toMatchObject({ required: ["productId", "clusterId"] });
  expect(schemas.PathMatch.properties.value).toMatchObject({ minLength: 1, maxLength: 1024 });
  const [list] = operations.filter(({ operation }) => operation["operationId"] === "listClusters");
  expect(list?.operation["parameters"]).toContainEqual(
    expect.objectContaining({ name: "pageSize", in: "query", schema: { type: "integer", minimum: 0, maximum: 1000 } }),
  );
});

test("guards and idempotency keys are parameters where a method takes them", () => {
  const of = (path: string, method: string): string[] =>
    (document["paths"][path][method].parameters as Any[]).flatMap((one) => (one["$ref"] as string | undefined) ?? []);
  expect(of("/v1/operator/clusters/{id}", "patch")).toEqual(["#/components/parameters/IfMatch"]);
  expect(of("/v1/operator/clusters", "post")).toContain("#/components/parameters/IdempotencyKey");
  expect(of("/v1/operator/commands:watch", "get")).toEqual(["#/components/parameters/LastEventId"]);
});

test("the generated comments are those of the protos", () => {
  expect(comments).toEqual(readComments()); // if not: npm run generate
});
