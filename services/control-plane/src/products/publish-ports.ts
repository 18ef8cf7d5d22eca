/** What publishing needs of the catalogue and of clusters. */
import type { ProductManifest } from "@bowline/contract/products";
import type { EnginePorts } from "../commands/index.ts";
import type { Caller, Principal } from "../platform/context.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import type { GatewayTemplate } from "./compile.ts";

export interface PublishPorts {
  engine: () => EnginePorts;
  /** Locks the cluster for new work. Throws NOT_FOUND, CLUSTER_NOT_GRANTED, CLUSTER_INACTIVE, CLUSTER_DELETING. */
  lockCluster(
    tx: Tx,
    idOrName: string,
    principal: Principal,
    organisationId?: string,
  ): Promise<{ id: string; name: string; policy: { allowPrivateBackends: boolean } }>;
  /** Locks the product. */
  revision(
    work: Work,
    caller: Caller,
    product: string,
    revision: string,
  ): Promise<{
    productId: string;
    productName: string;
    /** Whether customers see the product already. */
    published: boolean;
    organisationId: string;
    revisionId: string;
    number: number;
    content: ProductManifest;
  }>;
  /** Locks the gateway FOR SHARE: publishes to it go side by side, changes of it come before or after. */
  gateway(
    work: Work,
    caller: Caller,
    gateway: string,
    organisationId: string,
  ): Promise<GatewayTemplate & { name: string; agentLabels: Record<string, string>; organisationId: string }>;
  /** The newest version of each secret, by name. Throws SECRET_UNKNOWN, SECRET_UNFIT. */
  secretVersions(tx: Tx, organisationId: string, names: readonly string[]): Promise<Record<string, string>>;
  privateBackends(content: ProductManifest): readonly { path: string; url: string }[];
  conflicts(a: ProductManifest, b: ProductManifest): readonly { a: string; b: string; what: string }[];
  /** Whether `after` claims a match that `before` does not. */
  claimsMore(before: ProductManifest, after: ProductManifest): boolean;
}
