/** What the catalogue needs from outside. */
import type { Events } from "../../platform/events.ts";
import type { Db, Work } from "../../platform/transactions.ts";

export interface CataloguePorts {
  db: Db;
  events: Events;
  /**
   * Gives each data plane of a gateway a new generation, in the transaction that changed the gateway. The gateway's
   * row is locked.
   */
  gatewayChanged(work: Work, gatewayId: string): Promise<void>;
}
