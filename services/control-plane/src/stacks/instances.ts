/** Where a stack's instances are, for whoever reads their logs or runs something in them. */
import { instancesOf } from "../deployments/index.ts";
import type { Principal } from "../platform/context.ts";
import type { Db } from "../platform/transactions.ts";
import { serviceOfWorkload } from "./colours.ts";
import { readStacks } from "./queries.ts";
import { getStack } from "./rows.ts";

/** What was observed of a stack, by id or name. Throws NOT_FOUND. */
export async function stackInstances(db: Db, principal: Principal, idOrName: string) {
  const { id, organisation_id: organisationId } = await getStack(db, principal, idOrName);
  const targets = (await readStacks(db, principal, { ids: [id] })).flatMap((stack) => stack.targets);
  const observed = await instancesOf(
    db,
    targets.map((target) => target.deploymentId),
  );
  return targets.flatMap(({ agentId, agent, deploymentId, services }) =>
    (observed.get(deploymentId) ?? []).map(({ workload, index, phase }) => {
      const names = services.map((one) => one.service);
      const service = serviceOfWorkload(workload, names) ?? workload;
      return { agentId, agent, deploymentId, organisationId, workload, service, index, phase };
    }),
  );
}
