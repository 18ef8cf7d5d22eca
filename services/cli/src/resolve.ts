/** Names where the API takes ids. */
import { isId } from "@bowline/kernel";
import type { ProductPublish } from "@bowline/contract/products";
import type { Api } from "./client.ts";
import { exitCodes, Failure, usage } from "./failure.ts";

/** A publish by its id, or the newest of a product on the cluster `to`. */
export async function findPublish(api: Api, name: string, to: string | undefined): Promise<ProductPublish> {
  if (isId("publish", name)) return api.publishes.getProductPublish({ id: name });
  if (to === undefined)
    throw usage(`"${name}" is not the id of a publish; with a product's name, say --to <cluster>`, {
      next: ["publish list"],
    });
  const { productPublishes } = await api.publishes.listProductPublishes({
    productId: name,
    clusterId: to,
    pageSize: 1,
  });
  const newest = productPublishes[0];
  if (newest !== undefined) return newest;
  throw new Failure(exitCodes.failed, `${name} was never published to ${to}.`, {
    reason: "NOT_FOUND",
    next: [`publish create ${name} --to ${to} --wait`],
  });
}

/** Names of clusters by id, for lists whose rows have ids only. Ids stand in where they are not known. */
export async function clusterNames(api: Api): Promise<(id: string) => string> {
  const names = new Map<string, string>();
  /** The API's largest page; beyond it ids are shown. */
  const { clusters } = await api.clusters.listClusters({ pageSize: 1_000 });
  for (const { id, name } of clusters) names.set(id, name);
  return (id) => names.get(id) ?? id;
}
