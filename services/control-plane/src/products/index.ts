/**
 * Products: what provider teams offer, and placing it on clusters.
 *
 *   catalogue/            API services, gateways, products, revisions
 *   publishes.ts          create, deploy, roll back
 *   unpublish.ts, reverts.ts             the way back, asked for and by itself
 *   placing.ts            on agents, now and later
 *   attachments.ts, detachments.ts       which agents, which deployments there
 *   publish-checks.ts     what is refused
 *   publish-rows.ts, publish-ports.ts    locks, and what is needed of others
 *   compile.ts            revision and gateway to deployment specs
 *   owner.ts              what outcomes of commands do to publishes
 *   publish-states.ts     the life of a publish, as data
 *   publish-queries.ts, publish-rpc.ts   ProductPublishService
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { Resident } from "../clusters/index.ts";
import type { Owner } from "../commands/index.ts";
import { createBell } from "../platform/bell.ts";
import { dataPlaneOwner, publishOwner } from "./owner.ts";
import { placeEverywhere } from "./placing.ts";
import { type PublishRpcPorts, registerPublishes } from "./publish-rpc.ts";
import { revertEverywhere } from "./reverts.ts";
import { unpublishAll } from "./unpublish.ts";

export { gatewayChanged } from "./attachments.ts";
export * from "./catalogue/index.ts";

export interface Publishes {
  register(router: ConnectRouter): void;
  /** By the kind of the deployments that this slice owns. */
  owners: Record<string, Owner>;
  /** An agent came, or changed so that something may belong to it now. A hint. */
  agentChanged(agentId: string): void;
  /** What a cluster's deletion asks of its publishes. */
  resident: Resident;
  /** Places what waits for agents, and takes back what failed and asks for that, when told and at an interval; until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Without any hint an agent gets what belongs to it this late at most. */
const placeEveryMs = 10_000;

export function createPublishes(ports: PublishRpcPorts): Publishes {
  const bell = createBell();
  return {
    register: (router) => registerPublishes(router, ports),
    owners: {
      "product-publish": publishOwner(ports.engine, () => bell.ring()),
      "data-plane": dataPlaneOwner(ports.engine),
    },
    agentChanged: () => bell.ring(),
    resident: {
      remaining: async () => 0, // what is deployed counts as deployments
      removeAll: (clusterId) => unpublishAll(ports, clusterId),
      forget: async () => undefined,
    },
    async run(signal) {
      while (!signal.aborted) {
        const seen = bell.count();
        try {
          await revertEverywhere(ports);
          await placeEverywhere(ports);
        } catch (error) {
          if (!signal.aborted) ports.engine().log.warn({ error }, "placement failed; tried again");
        }
        await bell.wait(seen, placeEveryMs, signal);
      }
    },
  };
}
