/** `bowline product`: what a provider team offers, as a file. */
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import {
  ApplyProductResponseSchema,
  ListProductsResponseSchema,
  Product_State,
  ProductSchema,
} from "@bowline/contract/products";
import type { ApplyProductResponse } from "@bowline/contract/products";
import type { Command } from "commander";
import { changeLines } from "./changes.ts";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { apiError } from "../errors.ts";
import { exitCodes, Failure, usage } from "../failure.ts";
import type { ReadManifest } from "../manifest.ts";
import { hint, json, printJson, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, nothing, when } from "../text.ts";

type ApplyFlags = ConnectionFlags & { file: string; dryRun?: boolean };

export function productCommand(cli: Cli): Command {
  const product = noun("product", "Products: what a provider team offers");

  connected(
    verb(product, {
      usage: "apply",
      summary: "Make a product, its API services, routes and backends exactly what a file says",
      examples: ["product apply -f examples/hello/product.yaml", "product apply -f product.yaml --dry-run"],
      more: "In one transaction. Routes and backends that the file does not name are removed. What is published stays as it is until\nthe next publish. The file has the fields of ProductManifest, with `apiVersion: bowline/v1` and `kind: Product`.",
    })
      .requiredOption("-f, --file <file>", "the file, YAML or JSON; - is standard input")
      .option("--dry-run", "only tell what would change"),
  ).action(async (flags: ApplyFlags) => {
    const { readManifest } = await import("../manifest.ts"); // it brings a YAML parser along
    const read = readManifest(flags.file, await readFileOrStdin(cli, flags.file));
    const api = await openApi(cli, flags);
    const request = {
      manifest: read.manifest,
      dryRun: flags.dryRun,
      requestId: flags.dryRun === true ? "" : randomUUID(),
    };
    const response = await api.products.applyProduct(request).catch((error: unknown) => {
      throw inFile(flags.file, error, read) ?? error;
    });
    tellApplied(cli, flags, response, read.manifest.name);
  });

  connected(listed(verb(product, { usage: "list", summary: "List products", examples: ["product list"] }))).action(
    async (flags: ListFlags) => {
      const api = await openApi(cli, flags);
      const response = await allPages(
        flags.limit,
        (page) => api.products.listProducts(page),
        (page) => page.products,
      );
      printList(cli, flags, {
        schema: ListProductsResponseSchema,
        response,
        rows: response.products,
        id: (row) => row.id,
        columns: [
          ["NAME", (row) => row.name],
          ["DISPLAY NAME", (row) => row.displayName || nothing],
          ["STATE", (row) => enumName(Product_State, row.state)],
          ["REVISION", (row) => String(row.latestRevision || nothing)],
          ["CHANGED", (row) => when(row.updatedAt)],
          ["ID", (row) => row.id],
        ],
        none: `No products. Make one: ${cli.settings.invocation} product apply -f examples/hello/product.yaml`,
      });
      sayMore(cli, flags, response, flags.limit);
    },
  );

  connected(
    verb(product, {
      usage: "get <product>",
      summary: "Show one product",
      examples: ["product get hello", "product get hello -o json"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.products.getProduct({ id });
    printOne(cli, flags, {
      schema: ProductSchema,
      message: found,
      id: found.id,
      title: found.displayName === "" ? found.name : `${found.name}   ${found.displayName}`,
      facts: [
        ["id", found.id],
        ["state", enumName(Product_State, found.state)],
        ["revision", found.latestRevision === 0 ? "none yet" : String(found.latestRevision)],
        ["API services", found.apiServiceIds.join(", ")],
        ["about", found.description],
        ["created", when(found.createdAt)],
        ["changed", when(found.updatedAt)],
      ],
    });
  });
  return product;
}

async function readFileOrStdin(cli: Cli, file: string): Promise<string> {
  try {
    if (file !== "-") return await readFile(resolve(cli.settings.folder, file), "utf8");
    const chunks: Buffer[] = [];
    for await (const chunk of cli.stdin) chunks.push(Buffer.from(chunk as Buffer));
    return Buffer.concat(chunks).toString("utf8");
  } catch (error) {
    throw usage(`cannot read ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** The server's violations at their places in the file. */
function inFile(file: string, error: unknown, read: ReadManifest): Failure | undefined {
  const api = apiError(error);
  if (api === undefined || api.violations.length === 0) return undefined;
  return new Failure(exitCodes.failed, `${file} is refused: ${api.message}`, {
    reason: api.reason,
    lines: [...api.violations.map((violation) => read.locate(violation)), "Nothing was changed."],
    api: { ...api },
    cause: error,
  });
}

function tellApplied(cli: Cli, flags: ApplyFlags, response: ApplyProductResponse, name: string): void {
  const { product, revision, changes } = response;
  if (flags.output === "json") return printJson(cli, json(ApplyProductResponseSchema, response));
  if (flags.quiet === true) return cli.print(product?.id ?? "");
  for (const line of changeLines(changes)) cli.print(line);
  if (flags.dryRun === true) {
    cli.print(
      changes.length === 0
        ? `Nothing would change in product ${name}.`
        : `${changes.length} changes in product ${name} would be made; nothing was changed.`,
    );
    return;
  }
  const number = revision === undefined ? "" : `, revision ${revision.number}`;
  cli.print(
    changes.length === 0
      ? `Nothing changed in product ${name}${number}.`
      : `Product ${name}${number}: ${changes.length} changes.`,
  );
  if (changes.length > 0) hint(cli, flags, "To publish it:", `publish create ${name} --to <cluster> --wait`);
}
