/**
 * The front door of deployments.
 *
 *   store.ts    generations, locks, HELD      observe.ts  what agents report
 *   strays.ts   what belongs to no known deployment
 *   users.ts    who has a secret or an image of a registry
 *   newest.ts   what is wished now            queries.ts  reads for people
 *   rpc.ts      DeploymentService             reconcile.ts  the call that converges anew
 */
export { type NewestWish, newestWishes } from "./newest.ts";
export { instancesOf, readDeployment } from "./queries.ts";
export { recordObserved } from "./observe.ts";
export { recordStrays, straysOf } from "./strays.ts";
export { createReconcile, type ReconcilePorts } from "./reconcile.ts";
export { registerDeployments } from "./rpc.ts";
export {
  addGenerations,
  adoptGeneration,
  type DesiredName,
  forgetObserved,
  hold,
  type LockedDeployment,
  lockDeployments,
  lockPresent,
  newDeploymentId,
  recordConverged,
  restartObservations,
  settleAbsent,
  type Wish,
  type WishedDeployment,
} from "./store.ts";
export { refuseWhileUsed } from "./users.ts";
