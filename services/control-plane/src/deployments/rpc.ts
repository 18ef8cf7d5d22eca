/** DeploymentService. What enqueues is a port: the engine stands on deployments, not the other way round. */
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  DeploymentService,
  type DeploymentStatus,
  DeploymentStatusSchema,
  ListDeploymentsResponseSchema,
  ReconcileDeploymentRequestSchema,
} from "@bowline/contract/deployments";
import { problem } from "@bowline/kernel";
import { audit } from "../platform/audit-trail.ts";
import { callerOf, type Principal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { once } from "../platform/idempotency.ts";
import type { Db, Work } from "../platform/transactions.ts";
import { listDeployments, readDeployment } from "./queries.ts";

export interface DeploymentRpcPorts {
  db: Db;
  events: Events;
  /** Enqueues a command for the newest wish of a deployment once more. */
  again(work: Work, deploymentId: string, createdBy: string): Promise<void>;
}

export function registerDeployments(router: ConnectRouter, ports: DeploymentRpcPorts): void {
  async function read(principal: Principal, id: string): Promise<DeploymentStatus> {
    const status = await readDeployment(ports.db, principal, id);
    if (status === undefined) throw problem("NOT_FOUND", `There is no deployment ${id}.`);
    return status;
  }

  router.service(DeploymentService, {
    listDeployments: async (request, context) =>
      create(ListDeploymentsResponseSchema, await listDeployments(ports.db, callerOf(context).principal, request)),
    getDeployment: (request, context) => read(callerOf(context).principal, request.id),
    reconcileDeployment: async (request, context) => {
      const caller = callerOf(context);
      const before = await read(caller.principal, request.id);
      await once(
        ports.db,
        {
          principal: caller.principal,
          method: "ReconcileDeployment",
          key: request.requestId,
          request,
          requestSchema: ReconcileDeploymentRequestSchema,
          responseSchema: DeploymentStatusSchema,
        },
        async (work) => {
          await ports.again(work, before.id, caller.principal.id);
          await audit(ports.events, work, caller, {
            action: "deployment.reconcile",
            resourceKind: "deployment",
            resourceId: before.id,
            organisationId: before.organisationId,
          });
          return create(DeploymentStatusSchema, { id: before.id });
        },
      );
      return read(caller.principal, before.id);
    },
  });
}
