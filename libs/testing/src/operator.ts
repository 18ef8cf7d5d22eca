/** The operator's and provider's steps that most tests begin with, over the real API. */
import type { DescService, MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import { type Cluster, ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { type Command, CommandService } from "@bowline/contract/commands";
import { PathMatch_Type } from "@bowline/contract/deployments";
import {
  type CommandLimitsSchema,
  type ProductPublish,
  ProductPublishService,
  ProductService,
} from "@bowline/contract/products";
import { until } from "./until.ts";

export interface Operator {
  /** The cluster of that name; made (runtime `local`, private backends allowed) where there is none. */
  cluster(name: string): Promise<Cluster>;
  /** Text of a new registration token. */
  registrationToken(clusterId: string): Promise<string>;
  /** Applies a product with one route, `/<name>`, to a backend at `backendUrl`. */
  product(name: string, backendUrl?: string): Promise<void>;
  /** Applies the product where it is new, and publishes it to the cluster of that name. */
  publish(product: string, options: PublishOptions): Promise<ProductPublish>;
  publishOf(id: string): Promise<ProductPublish>;
  command(id: string): Promise<Command>;
  /** Waits until the command is in that state. */
  commandIn(id: string, state: Command["state"]): Promise<Command>;
}

export interface PublishOptions {
  to: string;
  backendUrl?: string;
  limits?: MessageInitShape<typeof CommandLimitsSchema>;
}

/** Where nobody listens: a scripted agent never asks it. */
const nowhere = "http://127.0.0.1:9";

export function createOperator(client: <Service extends DescService>(service: Service) => Client<Service>): Operator {
  const clusters = client(ClusterService);
  const commands = client(CommandService);
  const products = client(ProductService);
  const publishes = client(ProductPublishService);
  const applied = new Set<string>();

  const operator: Operator = {
    async cluster(name) {
      try {
        return await clusters.getCluster({ id: name });
      } catch (error) {
        if (!(error instanceof ConnectError) || error.code !== Code.NotFound) throw error;
        return clusters.createCluster({ cluster: { name, runtime: "local", policy: { allowPrivateBackends: true } } });
      }
    },
    async registrationToken(clusterId) {
      return (await client(RegistrationTokenService).createRegistrationToken({ clusterId })).token;
    },
    async product(name, backendUrl = nowhere) {
      await products.applyProduct({
        manifest: {
          name,
          apiServices: [
            {
              name,
              routes: [
                {
                  name,
                  matches: [{ path: { type: PathMatch_Type.PREFIX, value: `/${name}` } }],
                  backends: [{ backend: name }],
                },
              ],
              backends: [{ name, url: backendUrl }],
            },
          ],
        },
      });
      applied.add(name);
    },
    async publish(product, { to, backendUrl, limits }) {
      if (!applied.has(product) || backendUrl !== undefined) await operator.product(product, backendUrl);
      const request = { productId: product, clusterId: to };
      return publishes.createProductPublish(limits === undefined ? request : { ...request, limits });
    },
    publishOf: (id) => publishes.getProductPublish({ id }),
    command: (id) => commands.getCommand({ id }),
    async commandIn(id, state) {
      let last: Command | undefined;
      await until(async () => (last = await operator.command(id)).state === state, {
        what: `command ${id} in state ${state}`,
      });
      return last as Command;
    },
  };
  return operator;
}
