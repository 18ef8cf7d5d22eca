/**
 * The simulated runtime: what is pushed is fetched, journalled and received as
 * a real agent does it, then takes as long as the plan says and ends as it says.
 *
 * K1: an attempt is carried out once, however often it is pushed.
 * K2: below the highest generation that is journalled nothing is taken.
 */
import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  AgentService,
  CommandReceipt_Disposition as Receipt,
  type DeployCommand,
  DeployResult_Outcome as Outcome,
  type FetchedDeployment,
  SyncDecision_Action as Action,
} from "@bowline/contract/agent";
import { type Deployment, Deployment_Desired as Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { refusalOf } from "@bowline/session";
import type { AgentNotes, AgentWorld } from "./ports.ts";
import type { AgentConnection, Said } from "./connection.ts";
import type { Entry, MemoryJournal, Result, State } from "./journal.ts";

/** How one attempt goes. */
export interface Plan {
  runMs: number;
  /** Undefined: it succeeds. */
  failure?: { reason: string; worthRetry: boolean };
}

export type WorkPlan = (command: DeployCommand) => Plan;

export interface Work {
  push(command: DeployCommand): void;
  cancel(commandId: string, attempt: number): void;
  decided(commandId: string, attempt: number, action: Action): void;
  /** The session is over: what runs goes on, and what is fetched is nobody's. */
  detach(): void;
}

export interface WorkPorts {
  world: AgentWorld;
  notes: AgentNotes;
  connection: AgentConnection;
  journal: MemoryJournal;
  plan: WorkPlan;
  now(): number;
  token(): string;
  say(message: Said): void;
}

/** The contract's limit of one call. */
const maxItems = 64;
/** Attempts that take longer say how far they are, once. */
const tellProgressFromMs = 1_000;
/** What an access token that has ended is renewed within. */
const fetchAgainMs = 1_000;

export function createWork(ports: WorkPorts): Work {
  const { world, notes, connection, journal } = ports;
  /** Being fetched, by command; true: cancelled meanwhile. */
  const fetching = new Map<string, boolean>();
  let wanted: DeployCommand[] = [];
  let attached = true;
  const say = (message: Said): void => {
    if (attached) ports.say(message);
  };
  const receipt = ({ commandId, attempt }: Pick<DeployCommand, "commandId" | "attempt">, how: Receipt, reason = "") =>
    say({ case: "commandReceipt", value: { commandId, attempt, disposition: how, reason } });
  const tell = (result: Result): void => say({ case: "deployResult", value: result });
  /** Also of what was under way when the session before ended. */
  const finished = (entry: Entry): void => {
    entry.saidAt = performance.now();
    if (entry.result !== undefined) tell(entry.result);
  };
  journal.finished = finished;

  async function fetchAll(): Promise<void> {
    await Promise.resolve(); // what is pushed in the same turn shares the call
    while (wanted.length > 0 && attached) {
      const batch = wanted.splice(0, maxItems);
      try {
        const items = batch.map(({ commandId, attempt }) => ({ commandId, attempt }));
        const { deployments } = await connection.call(
          AgentService.method.fetchDeployments,
          { items },
          `Bearer ${ports.token()}`,
        );
        if (!attached) return;
        const answers = new Map(deployments.map((answer) => [answer.commandId, answer]));
        for (const command of batch) {
          const answer = answers.get(command.commandId);
          if (answer !== undefined) take(command, answer);
          else if (answers.size > 0) wanted.push(command); // did not fit into the answer
        }
      } catch (error) {
        for (const { commandId } of batch) fetching.delete(commandId); // they are pushed again
        if (!attached) return;
        notes.trouble(`fetch: ${refusalOf(error).reason}`);
        if (ConnectError.from(error).code === Code.Unauthenticated) {
          say({ case: "tokenRequest", value: {} });
          await world.wheel.sleep(fetchAgainMs);
        }
      }
    }
  }

  function take(command: DeployCommand, fetched: FetchedDeployment): void {
    const cancelled = fetching.get(command.commandId) === true;
    fetching.delete(command.commandId);
    if (fetched.reason !== "") return; // the server moved on
    const digest = createHash("sha256").update(fetched.spec).digest("hex");
    if (digest !== command.digest) return receipt(command, Receipt.REJECTED, "SPEC_INVALID");
    const { commandId, attempt, deploymentId, generation } = command;
    journal.open.get(commandId)?.work?.cancel(); // an older attempt
    const entry: Entry = { command, work: undefined, result: undefined, saidAt: 0 };
    journal.open.set(commandId, entry);
    journal.highest.set(deploymentId, { generation, digest });
    receipt(command, Receipt.ACCEPTED);
    notes.effect(commandId, attempt);
    const spec = fromBinary(DeploymentSchema, fetched.spec);
    if (cancelled) return carried(ports, entry, spec, { cancelled: true }, 0);
    const plan = ports.plan(command);
    if (plan.runMs >= tellProgressFromMs) {
      say({ case: "commandProgress", value: { commandId, attempt, phase: "APPLYING", percent: 10 } });
    }
    entry.work = world.wheel.after(plan.runMs, () => carried(ports, entry, spec, plan, plan.runMs));
  }

  return {
    push(command) {
      notes.pushed();
      const { commandId, attempt, deploymentId, generation, digest } = command;
      const done = journal.outcomeOf(commandId, attempt);
      if (done !== undefined) return tell(done); // K1
      const known = journal.open.get(commandId);
      if (known !== undefined && known.command.attempt >= attempt) {
        if (known.result !== undefined) return tell(known.result);
        return receipt(command, Receipt.DUPLICATE);
      }
      if (fetching.has(commandId)) return;
      const highest = journal.highest.get(deploymentId);
      if (highest !== undefined && generation < highest.generation)
        return receipt(command, Receipt.REJECTED, "NEWER_GENERATION"); // K2
      if (highest?.generation === generation && highest.digest !== digest)
        return receipt(command, Receipt.REJECTED, "AWAITING_DECISION");
      fetching.set(commandId, false);
      wanted.push(command);
      if (wanted.length === 1) void fetchAll();
    },
    cancel(commandId, attempt) {
      if (fetching.has(commandId)) return void fetching.set(commandId, true);
      const entry = journal.open.get(commandId);
      if (entry?.command.attempt === attempt) {
        if (entry.result !== undefined) return tell(entry.result);
        entry.work?.cancel();
        return carried(ports, entry, undefined, { cancelled: true }, 0);
      }
      const done = journal.outcomeOf(commandId, attempt);
      if (done !== undefined) tell(done);
      else receipt({ commandId, attempt }, Receipt.REJECTED, "NOT_HERE");
    },
    decided(commandId, attempt, action) {
      if (action === Action.CANCEL) return this.cancel(commandId, attempt);
      if (action !== Action.REPORT_AGAIN) return;
      const entry = journal.open.get(commandId);
      const result = entry?.result ?? journal.outcomeOf(commandId, attempt);
      if (result !== undefined) tell(result);
      else receipt({ commandId, attempt }, Receipt.DUPLICATE);
    },
    detach() {
      attached = false;
      if (journal.finished === finished) journal.finished = undefined;
    },
  };
}

function carried(
  { journal, notes, now }: Pick<WorkPorts, "journal" | "notes" | "now">,
  entry: Entry,
  spec: Deployment | undefined,
  how: Pick<Plan, "failure"> | { cancelled: true },
  durationMs: number,
): void {
  const { commandId, attempt, deploymentId, generation, digest, productPublishId } = entry.command;
  entry.work = undefined;
  const said = { commandId, attempt, durationMs: Math.round(durationMs), productPublishId };
  const end = (outcome: Outcome, more: Result = {}): void => {
    entry.result = { ...said, outcome, ...more };
    notes.carried(outcome);
  };
  if ("cancelled" in how) {
    end(Outcome.CANCELLED);
  } else if (how.failure !== undefined) {
    end(Outcome.FAILED, { ...how.failure, message: "as the simulation wanted it" });
  } else {
    const state = spec === undefined ? undefined : stateOf(spec, now());
    if (spec?.desired === Desired.ABSENT) journal.running.delete(deploymentId);
    else journal.running.set(deploymentId, { generation, digest, state });
    journal.changed();
    end(Outcome.SUCCEEDED, state === undefined ? {} : { state });
  }
  journal.finished?.(entry);
}

/** As if all that the spec asks for ran, and was healthy. Undefined: it has nothing to run. */
function stateOf({ id, generation, desired, workloads, dataPlane }: Deployment, now: number): State | undefined {
  if (desired === Desired.ABSENT) return { deploymentId: id, generation, absent: true };
  const names = dataPlane === undefined ? [] : ["gateway"];
  for (const { name, count = 1 } of workloads) names.push(...Array.from({ length: count }, () => name));
  if (names.length === 0) return undefined;
  const phase = { [Desired.STOPPED]: "STOPPED", [Desired.PAUSED]: "PAUSED" }[desired as number] ?? "RUNNING";
  const index = new Map<string, number>();
  return {
    deploymentId: id,
    generation,
    instances: names.map((workload) => {
      const at = index.get(workload) ?? 0;
      index.set(workload, at + 1);
      const health = phase === "RUNNING" ? "HEALTHY" : "UNKNOWN";
      return { workload, index: at, phase, health, image: "simulated", startedAt: timestampFromMs(now) };
    }),
  };
}
