/**
 * The audit trail, as people read it. Every slice writes it, with
 * platform/audit-trail.ts, in the transaction of its change.
 *
 *   queries.ts  events in SQL, as the API shows them    rpc.ts  AuditService
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { type AuditPorts, registerAudit } from "./rpc.ts";

export type { AuditPorts } from "./rpc.ts";

export interface Audit {
  readonly register: (router: ConnectRouter) => void;
}

export function createAudit(ports: AuditPorts): Audit {
  return { register: (router) => registerAudit(router, ports) };
}
