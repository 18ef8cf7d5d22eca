/**
 * The front door of deployments.
 *
 *   store.ts    generations, locks, HELD      observe.ts  what agents report
 *   strays.ts   what belongs to no known deployment
 *   queries.ts  reads for people              rpc.ts      DeploymentService
 */
export { recordObserved } from "./observe.ts";
export { recordStrays, straysOf } from "./strays.ts";
export { registerDeployments } from "./rpc.ts";
export {
  addGenerations,
  adoptGeneration,
  type DesiredName,
  forgetObserved,
  hold,
  lockDeployments,
  lockPresent,
  newDeploymentId,
  recordConverged,
  restartObservations,
  settleAbsent,
  type Wish,
  type WishedDeployment,
} from "./store.ts";
