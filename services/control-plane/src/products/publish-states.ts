/** The life of a publish and of its targets, as data. */
import type { CommandState } from "@bowline/db";

/** Where each state may lead; a state that stays is not listed. */
export const publishTransitions = {
  DRAFT: ["PENDING", "UNPUBLISHED"], // deployed, or thrown away
  PENDING: ["DISPATCHED", "APPLYING", "LIVE", "FAILED", "SUPERSEDED", "UNPUBLISHING"],
  DISPATCHED: ["PENDING", "APPLYING", "LIVE", "FAILED", "SUPERSEDED", "UNPUBLISHING"],
  APPLYING: ["PENDING", "DISPATCHED", "LIVE", "FAILED", "SUPERSEDED", "UNPUBLISHING"],
  LIVE: ["SUPERSEDED", "UNPUBLISHING"],
  FAILED: ["PENDING", "DISPATCHED", "APPLYING", "LIVE", "UNPUBLISHING"], // by a retry of its command
  SUPERSEDED: [],
  UNPUBLISHING: ["UNPUBLISHED"],
  UNPUBLISHED: [],
} as const satisfies Record<string, readonly string[]>;

export type PublishState = keyof typeof publishTransitions;
export type TargetState = Exclude<PublishState, "DRAFT">;

/** A target's state while its command is in this one. */
export function targetStateOf(state: CommandState): TargetState {
  switch (state) {
    case "BLOCKED":
    case "READY":
    case "RETRY_WAIT":
      return "PENDING";
    case "ASSIGNED":
      return "DISPATCHED";
    case "RUNNING":
    case "CANCELLING":
      return "APPLYING";
    case "SUCCEEDED":
      return "LIVE";
    case "FAILED":
    case "CANCELLED":
    case "EXPIRED":
    case "LOST":
      return "FAILED";
    case "SUPERSEDED":
      return "SUPERSEDED";
    default:
      return state satisfies never;
  }
}

/** From worst to best: the first that a target has is the publish's. */
const worstFirst: readonly TargetState[] = ["FAILED", "PENDING", "DISPATCHED", "APPLYING", "LIVE"];

/** The state of a publish from those of its targets, and the target that decided; `toCome`: agents that follow. */
export function aggregate<Target extends { state: TargetState }>(
  before: PublishState,
  targets: readonly Target[],
  toCome = 0,
): { state: PublishState; because: Target | undefined } {
  if (before === "UNPUBLISHING") {
    const open = targets.find((target) => target.state !== "UNPUBLISHED");
    return { state: open === undefined ? "UNPUBLISHED" : "UNPUBLISHING", because: open };
  }
  // What was superseded, unpublished or live stays so, whoever joins or leaves.
  if (before === "SUPERSEDED" || before === "UNPUBLISHED" || before === "DRAFT" || before === "LIVE") {
    return { state: before, because: undefined };
  }
  for (const state of worstFirst) {
    const because = targets.find((target) => target.state === state);
    if (because === undefined) continue;
    if (state === "LIVE" && toCome > 0) break; // not where it is to be
    return { state: state as PublishState, because: state === "LIVE" ? undefined : because };
  }
  return { state: "PENDING", because: undefined };
}
