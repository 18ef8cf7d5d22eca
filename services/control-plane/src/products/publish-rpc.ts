/** ProductPublishService. */
import { create, type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import {
  type Change,
  CreateProductPublishRequestSchema,
  DeployProductPublishRequestSchema,
  DiffProductPublishResponseSchema,
  ListProductPublishesResponseSchema,
  type ProductManifest,
  ProductManifestSchema,
  type ProductPublish,
  ProductPublishSchema,
  ProductPublishService,
  RollbackProductPublishRequestSchema,
  UnpublishProductPublishRequestSchema,
  type WatchProductPublishResponse,
  WatchProductPublishResponseSchema,
} from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { type Caller, callerOf, type Principal, seesAll } from "../platform/context.ts";
import { once } from "../platform/idempotency.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { watch } from "../platform/watch.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { listPublishes, readPublishes } from "./publish-queries.ts";
import { authorise } from "./publish-rows.ts";
import { createPublish, deploy, rollback } from "./publishes.ts";
import { unpublish } from "./unpublish.ts";

export interface PublishRpcPorts extends PublishPorts {
  diff(before: ProductManifest, after: ProductManifest): Change[];
  /** The product as it is now. */
  current(work: Work, productId: string): Promise<ProductManifest>;
}

export function registerPublishes(router: ConnectRouter, ports: PublishRpcPorts): void {
  const db = () => ports.engine().db;

  async function read(principal: Principal, id: string): Promise<ProductPublish> {
    const [publish] = await readPublishes(db(), principal, { ids: [id] });
    if (publish === undefined) throw problem("NOT_FOUND", `There is no publish ${id}.`);
    return publish;
  }

  /** Runs work once per idempotency key and answers with the publish as it is then. */
  async function started<Req extends DescMessage>(
    context: HandlerContext,
    requestSchema: Req,
    request: MessageShape<Req> & { requestId: string },
    body: (work: Work, caller: Caller) => Promise<string>,
  ): Promise<ProductPublish> {
    const caller = callerOf(context);
    const answer = await once(
      db(),
      {
        principal: caller.principal,
        method: context.method.name,
        key: request.requestId,
        request,
        requestSchema,
        responseSchema: ProductPublishSchema,
      },
      async (work) => create(ProductPublishSchema, { id: await body(work, caller) }),
    );
    return read(caller.principal, answer.id);
  }

  async function contentOf(publishId: string): Promise<{ content: ProductManifest; productId: string }> {
    const row = await db()
      .selectFrom("product_publishes as p")
      .innerJoin("product_revisions as v", "v.id", "p.revision_id")
      .select(["v.content", "p.product_id"])
      .where("p.id", "=", publishId)
      .executeTakeFirstOrThrow();
    return { content: fromBinary(ProductManifestSchema, row.content), productId: row.product_id };
  }

  router.service(ProductPublishService, {
    createProductPublish: (request, context) =>
      started(context, CreateProductPublishRequestSchema, request, (work, caller) =>
        createPublish(ports, work, caller, request),
      ),
    deployProductPublish: (request, context) =>
      started(context, DeployProductPublishRequestSchema, request, async (work, caller) => {
        await authorise(work.tx, caller, request.id);
        await deploy(ports, work, caller, request.id);
        return request.id;
      }),
    rollbackProductPublish: (request, context) =>
      started(context, RollbackProductPublishRequestSchema, request, async (work, caller) => {
        await authorise(work.tx, caller, request.id);
        return rollback(ports, work, caller, request.id);
      }),
    unpublishProductPublish: (request, context) =>
      started(context, UnpublishProductPublishRequestSchema, request, async (work, caller) => {
        await authorise(work.tx, caller, request.id);
        await unpublish(ports, work, caller, request.id);
        return request.id;
      }),
    getProductPublish: (request, context) => read(callerOf(context).principal, request.id),
    listProductPublishes: async (request, context) =>
      create(ListProductPublishesResponseSchema, await listPublishes(db(), callerOf(context).principal, request)),
    diffProductPublish: async (request, context) => {
      const { principal } = callerOf(context);
      const before = await contentOf((await read(principal, request.id)).id);
      const after =
        request.to === ""
          ? await transact(db(), (work) => ports.current(work, before.productId))
          : (await contentOf((await read(principal, request.to)).id)).content;
      return create(DiffProductPublishResponseSchema, { changes: ports.diff(before.content, after) });
    },
    watchProductPublish: async function* (request, context) {
      const { principal } = callerOf(context);
      if (request.id !== "") await read(principal, request.id);
      yield* watch<WatchProductPublishResponse>(
        ports.engine().events,
        request.cursor,
        {
          topic: "publish",
          snapshot: async function* () {
            const filter = request.id === "" ? { inForce: true } : { ids: [request.id] };
            for (const productPublish of await readPublishes(db(), principal, filter))
              yield create(WatchProductPublishResponseSchema, { productPublish });
          },
          wants: (event) =>
            (request.id === "" || event.subjectId === request.id) &&
            (seesAll(principal) || event.organisationId === principal.organisationId),
          read: async (event) => {
            const [productPublish] = await readPublishes(db(), principal, { ids: [event.subjectId] });
            return productPublish === undefined
              ? undefined
              : create(WatchProductPublishResponseSchema, { productPublish });
          },
          empty: ({ snapshotEnd }) => create(WatchProductPublishResponseSchema, { snapshotEnd }),
          withCursor: (message, cursor) => Object.assign(message, { cursor }),
        },
        context.signal,
      );
    },
  });
}
