/** Where a stack stands, as lines: per host and service. */
import {
  PlannedChange_Action as Action,
  type Rollout,
  Rollout_State,
  RolloutPolicy_Strategy as Strategy,
  type Stack,
  type StackTarget,
  StackTarget_State as State,
  type StackTargetService,
} from "@bowline/contract/stacks";
import type { PlannedChange } from "@bowline/contract/stacks";
import type { ObservedInstance } from "@bowline/contract/deployments";
import { durationMs, timestampFromDate, timestampMs } from "@bufbuild/protobuf/wkt";
import type { Row } from "./progress.ts";
import { clockTime, enumName, span } from "./text.ts";

/** `shop r12 to factory-7`. */
export function stackTitle(stack: Stack): string {
  return `${stack.name} r${stack.revision} to ${stack.cluster}`;
}

/** `shop r12 to factory-7: 3 hosts, rolling, 1 at a time`. */
export function rolloutTitle(stack: Stack): string {
  const hosts = stack.targets.length === 1 ? "1 host" : `${stack.targets.length} hosts`;
  const parallel = stack.rollout?.policy?.maxParallel || 1;
  const strategy = enumName(Strategy, stack.rollout?.policy?.strategy || Strategy.ROLLING)
    .toLowerCase()
    .replace("_", "/");
  return `${stackTitle(stack)}: ${hosts}, ${strategy}, ${parallel} at a time`;
}

/** Services that an apply leaves as they are, as `agent id, service`. */
export function keptBy(plan: readonly PlannedChange[]): ReadonlySet<string> {
  return new Set(
    plan.filter(({ action }) => action === Action.KEEP).map(({ agentId, service }) => key(agentId, service)),
  );
}

/** A row for each service at each host; one for a host of which nothing more can be said. */
export function stackRows(stack: Stack, kept: ReadonlySet<string> = new Set()): Row[] {
  if (stack.targets.length === 0) return stack.reason === "" ? [] : [{ key: "", cells: [stack.reason, stack.message] }];
  return stack.targets.flatMap((target) => targetRows(stack, target, kept));
}

function targetRows(stack: Stack, target: StackTarget, kept: ReadonlySet<string>): Row[] {
  const whole = wholeText(target);
  if (whole !== undefined || target.services.length === 0)
    return [
      {
        key: target.agentId,
        cells: [target.agent, "", whole ?? targetText(stack, target)],
        below: below(stack, target),
      },
    ];
  const isAllKept = target.services.every(({ service }) => kept.has(key(target.agentId, service)));
  const failing = failingService(target);
  const last = failing ?? target.services.at(-1)?.service;
  return target.services.map((service) => {
    // A failure is shown by what was to change, where that is known.
    const isKept =
      kept.has(key(target.agentId, service.service)) && !(isAllKept && target.state === State.TARGET_FAILED);
    const waits = isBehind(stack, target);
    const text = isKept ? "unchanged" : waits ? waitsText(stack, target) : serviceText(stack, target, service);
    const observed = observedText(service.instances);
    return {
      key: key(target.agentId, service.service),
      cells: [target.agent, service.service, text],
      ...(service.service === last ? { below: below(stack, target) } : {}),
      mark: isKept
        ? text
        : [enumName(State, target.state), waits, target.reason, service.progressPhase, observed].join("\n"),
    };
  });
}

/** Its turn has not come: what it has is of an earlier revision than the one that is rolled out. */
function isBehind({ rollout }: Stack, { state, revision }: StackTarget): boolean {
  if (rollout === undefined || hasEnded(rollout) || revision === rollout.toRevision) return false;
  return state === State.WAITING || state === State.DONE || state === State.TARGET_FAILED;
}

/** True where nothing more becomes of it. */
export function hasEnded(rollout: Rollout | undefined): boolean {
  return rollout === undefined || !openStates.includes(rollout.state);
}

/** What a rollout that has not ended waits for, which nothing here brings about; undefined: it goes on by itself. */
export function restOf(rollout: Rollout | undefined): "promotion" | "keeps" | "unclear" | undefined {
  if (rollout === undefined || hasEnded(rollout)) return undefined;
  if (rollout.state === Rollout_State.PAUSED) return rollout.reason === "GATE_INCONCLUSIVE" ? "unclear" : undefined;
  if (rollout.awaitsPromotion) return "promotion";
  return rollout.removesOldAt === undefined ? undefined : "keeps";
}

const openStates: readonly Rollout_State[] = [Rollout_State.PENDING, Rollout_State.RUNNING, Rollout_State.PAUSED];

function key(agentId: string, service: string): string {
  return `${agentId} ${service}`;
}

/** The service that a failure begins with, where it says one: others only failed with it. */
export function failingService({ message, services }: Pick<StackTarget, "message" | "services">): string | undefined {
  const [, name] = /^(?:workload )?([\w.-]+?)(?:--green)?(?=[ :])/.exec(message) ?? [];
  return services.find(({ service }) => service === name)?.service;
}

/** What is to say of a host as a whole, where its services need no line each. */
function wholeText(target: StackTarget): string | undefined {
  if (target.reason === "AGENT_OFFLINE") return awayText(target);
  if (target.state === State.REMOVING) return removalText(target);
  return undefined;
}

/** `is being removed`, with what is in the way of that. */
function removalText({ reason, message }: StackTarget): string {
  const why = [reason, firstLine(message)].filter((part) => part !== "").join(": ");
  return ["is being removed", why].filter((part) => part !== "").join(", ");
}

/** `offline since 08:40, follows when it returns`. The API's message has the time of all places. */
export function awayText({ message }: Pick<StackTarget, "message">): string {
  const [, at] = /since (\d{4}-\d\d-\d\dT[\d:.]+Z)/.exec(message) ?? [];
  return at === undefined
    ? "has never connected, follows when it does"
    : `offline since ${clockTime(timestampFromDate(new Date(at)))}, follows when it returns`;
}

function serviceText(stack: Stack, target: StackTarget, service: StackTargetService): string {
  switch (target.state) {
    case State.TARGET_FAILED:
    case State.PENDING:
      return isOther(target, service) ? withText(target) : targetText(stack, target);
    case State.APPLYING:
      return service.progressPhase === ""
        ? targetText(stack, target)
        : progressText(service.progressPhase, service.progressPercent, service.progressMessage);
    case State.DONE:
      return observedText(service.instances) || (service.count === 0 ? "stopped" : "as wanted");
    default:
      return targetText(stack, target);
  }
}

/** Whether what failed at the host is another service. */
function isOther(target: StackTarget, { service }: StackTargetService): boolean {
  const failing = target.reason === "" ? undefined : failingService(target);
  return failing !== undefined && failing !== service;
}

/** Of what failed, or is tried again, only because another service did. */
function withText(target: StackTarget): string {
  return `${target.state === State.TARGET_FAILED ? "FAILED  with" : "waits for"} ${failingService(target) ?? ""}`;
}

/** `pulling 42 %, 31 of 74 MB`. */
function progressText(phase: string, percent: number, message: string): string {
  const words = phase.toLowerCase().replaceAll("_", " ");
  const doing = [words, percent > 0 && percent < 100 ? `${percent} %` : ""].filter((part) => part !== "").join(" ");
  return [doing, firstLine(message)].filter((part) => part !== "").join(", "); // the last lines of a log may follow
}

function targetText(stack: Stack, target: StackTarget): string {
  switch (target.state) {
    case State.WAITING:
      return waitsText(stack, target);
    case State.DONE:
      return "has nothing of it";
    case State.PENDING:
      // The rest of it is told when it has failed for good.
      return [target.reason, firstLine(target.message)].filter((part) => part !== "").join(": ") || "on its way";
    case State.APPLYING:
      return progressText(target.progressPhase || "APPLYING", target.progressPercent, "");
    case State.TARGET_FAILED:
      return ["FAILED", target.reason].filter((part) => part !== "").join("  ");
    default:
      return "";
  }
}

/** `waits for press-1`: who is at work. Where nobody is, whoever became the last has to prove itself. */
function waitsText(stack: Stack, target: StackTarget): string {
  if (stack.rollout?.state === Rollout_State.PAUSED) return "waits: the rollout is paused";
  const busy = stack.targets
    .filter((other) => other !== target && other.reason !== "AGENT_OFFLINE")
    .filter(({ state }) => state === State.PENDING || state === State.APPLYING)
    .map(({ agent }) => agent);
  if (busy.length > 0) return `waits for ${busy.join(", ")}`;
  const changed = stack.targets.filter(
    ({ state, revision }) => state === State.DONE && revision === stack.rollout?.toRevision,
  );
  const last = changed.toSorted((a, b) => changedAt(b) - changedAt(a))[0];
  return last === undefined ? "waits for its turn" : `waits until ${last.agent} was healthy for ${healthySpan(stack)}`;
}

function changedAt({ updatedAt }: StackTarget): number {
  return updatedAt === undefined ? 0 : timestampMs(updatedAt);
}

/** The policy's own, or its default. */
function healthySpan({ rollout }: Stack): string {
  const given = rollout?.policy?.minHealthyTime;
  return given === undefined ? "10 s" : span(durationMs(given));
}

/** `2 running, healthy`; the phases that there are, the most first. Empty: nothing was observed. */
export function observedText(instances: readonly ObservedInstance[]): string {
  const phases = [...Map.groupBy(instances, instanceText)].toSorted(([, a], [, b]) => b.length - a.length);
  return phases
    .map(([text, all]) => (phases.length === 1 && all.length === 1 ? text : `${all.length} ${text}`))
    .join("; ");
}

/** `running, healthy`. */
export function instanceText(instance: ObservedInstance): string {
  const health = ["", "UNKNOWN"].includes(instance.health) ? "" : instance.health.toLowerCase();
  const phase = instance.phase.toLowerCase();
  // What runs again still has the code of its last end.
  const isUp = phase === "running" || phase === "starting";
  const code = `exit code ${instance.exitCode}`;
  const exit = instance.exitCode === undefined || isUp || instance.reason.endsWith(code) ? "" : code;
  const why = instance.reason.toLowerCase() === phase ? "" : instance.reason;
  return [phase, health, exit, why].filter((part) => part !== "").join(", ");
}

/** Why it failed, and what still runs there. */
function below(stack: Stack, target: StackTarget): string[] {
  if (target.state !== State.TARGET_FAILED) return [];
  return [...target.message.split("\n").filter((line) => line.trim() !== ""), ...stillRuns(stack, target)];
}

/** `still runs: web, db`: what of the host's services is there, after a failure. */
export function stillRuns(stack: Stack, target: StackTarget): string[] {
  const running = target.services.filter(({ instances }) => instances.some(({ phase }) => phase === "RUNNING"));
  if (running.length === 0) return [];
  const older = running.filter(({ instances }) => instances.some(({ generation }) => generation < target.generation));
  const revision = older.length > 0 && stack.stableRevision > 0 ? ` (r${stack.stableRevision})` : "";
  return [`still runs: ${running.map(({ service }) => service).join(", ")}${revision}`];
}

function firstLine(text: string): string {
  return (text.split("\n")[0] ?? "").replace(/; it wrote:$/, "");
}

/** Services of which something does not run well, with how it is, after a rollout that was not healthy in time. */
export function notWell(stack: Stack): { service: string; line: string }[] {
  return stack.targets.flatMap(({ agent, services }) =>
    services
      .filter(({ instances }) => instances.some(({ phase, health }) => phase !== "RUNNING" || health === "UNHEALTHY"))
      .map(({ service, instances }) => ({ service, line: `${agent} ${service}: ${observedText(instances)}` })),
  );
}

/** Rows of what differs from what is wanted while nothing is under way; where no instance says what, all of them. */
export function driftedRows(stack: Stack): Row[] {
  if (!stack.conditions.includes("DRIFTED")) return [];
  const rows = stackRows(stack);
  const off = new Set(
    stack.targets.flatMap(({ agentId, services }) =>
      services.filter(({ instances }) => instances.some(isOff)).map(({ service }) => key(agentId, service)),
    ),
  );
  return off.size === 0 ? rows : rows.filter((row) => off.has(row.key));
}

function isOff({ phase, health, exitCode, reason }: ObservedInstance): boolean {
  return reason !== "" || health === "UNHEALTHY" || (phase !== "RUNNING" && !(phase === "EXITED" && exitCode === 0));
}

/** An action of a plan in a word. */
export function actionText(action: Action): string {
  return enumName(Action, action).toLowerCase();
}
