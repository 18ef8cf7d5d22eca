/** DeploymentService. What enqueues is a port: the engine stands on deployments, not the other way round. */
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import { DeploymentService, type DeploymentStatus, ListDeploymentsResponseSchema } from "@bowline/contract/deployments";
import { problem } from "@bowline/kernel";
import { callerOf, type Principal } from "../platform/context.ts";
import { listDeployments, readDeployment } from "./queries.ts";
import { createReconcile, type ReconcilePorts } from "./reconcile.ts";

export function registerDeployments(router: ConnectRouter, ports: ReconcilePorts): void {
  const reconcile = createReconcile(ports);

  async function read(principal: Principal, id: string): Promise<DeploymentStatus> {
    const status = await readDeployment(ports.db, principal, id);
    if (status === undefined) throw problem("NOT_FOUND", `There is no deployment ${id}.`);
    return status;
  }

  router.service(DeploymentService, {
    listDeployments: async (request, context) =>
      create(ListDeploymentsResponseSchema, await listDeployments(ports.db, callerOf(context).principal, request)),
    getDeployment: (request, context) => read(callerOf(context).principal, request.id),
    reconcileDeployment: (request, context) => reconcile(callerOf(context), request),
  });
}
