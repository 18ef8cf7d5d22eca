/**
 * Commands in a closed loop: each deployment has one command under way. Its
 * caller enqueues, and enqueues the next when the agent's result of this one is
 * acknowledged as recorded.
 *
 * V1: one result per command: each command that was accepted is pushed once and
 *     its result recorded once, or the run is void.
 */
import type { ClientHttp2Session } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  CommandReceipt_Disposition as Receipt,
  type DeployCommand,
  DeployResult_Outcome,
  ResultAck_Disposition as Ack,
  type ServerMessage,
} from "@bowline/contract/agent";
import { ReconcileDeploymentRequestSchema } from "@bowline/contract/deployments";
import { type OpenAgent, openAgent } from "./agent.ts";
import type { Credentials } from "./enrol.ts";
import { callUnary, cut, dial } from "./wire.ts";

const reconcilePath = "/bowline.deployments.v1.DeploymentService/ReconcileDeployment";
/** The contract's limit of one fetch. */
const fetchTogether = 64;
/** Connections of callers: HTTP/2 shares each among many. */
const callerConnections = 4;
/** Below the server's interval, so that no round begins with a late one. */
const heartbeatMs = 10_000;
/** Heartbeats between two requests for a token, which lives for ten minutes. */
const newTokenEach = 24;
/** What is under way at the end of the time has to end within this, or the run is void. */
const drainWithinMs = 30_000;

export interface Dispatched {
  commands: number;
  seconds: number;
  /** From the call to its answer. */
  acceptedMs: number[];
  /** From the call to the agent's having the DeployCommand. */
  pushedMs: number[];
}

export interface Fleet {
  run(options: { callers: number; forMs: number; limit?: number }): Promise<Dispatched>;
  /**
   * One command after the other, on one deployment after the other. When each was at its agent, by its id: ms since 1970
   * by the machine's clock, to the microsecond.
   */
  oneByOne(options: { commands: number; pauseMs: number }): Promise<Map<string, number>>;
  close(): Promise<void>;
}

/** A caller's place: one deployment, and what is under way for it. */
interface Place {
  deploymentId: string;
  calledAt: number;
  /** Called when the result of its command is recorded. */
  recorded: () => void;
}

/** Connects the agents. `deployments`: which there are, all of them of these agents. `callAt`: another replica. */
export async function openFleet(options: {
  url: string;
  callAt?: string;
  authorization: string;
  agents: readonly Credentials[];
  deployments: readonly string[];
}): Promise<Fleet> {
  const { url, authorization, deployments } = options;
  const places = new Map<string, Place>();
  /** Pushes and recorded results by command. */
  const pushes = new Map<string, number>();
  const records = new Map<string, number>();
  let pushedMs: number[] = [];
  /** By command, on performance.now(): kept while commands go one by one. */
  let arrivals: Map<string, number> | undefined;
  const troubles: string[] = [];
  const count = (map: Map<string, number>, id: string): void => void map.set(id, (map.get(id) ?? 0) + 1);

  function heard(message: ServerMessage["message"], agent: OpenAgent): void {
    if (message.case === "deployCommand") {
      const command = message.value;
      arrivals?.set(command.commandId, performance.now());
      count(pushes, command.commandId);
      const place = places.get(command.deploymentId);
      if (place !== undefined) pushedMs.push(performance.now() - place.calledAt);
      fetchers.get(agent)?.(command);
    } else if (message.case === "resultAck") {
      const { commandId, disposition } = message.value;
      if (disposition !== Ack.RECORDED) troubles.push(`a result was answered ${disposition}`);
      count(records, commandId);
      const deploymentId = deploymentOf.get(commandId);
      deploymentOf.delete(commandId);
      if (deploymentId !== undefined) places.get(deploymentId)?.recorded();
    }
  }
  const deploymentOf = new Map<string, string>();
  const fetchers = new Map<OpenAgent, (command: DeployCommand) => void>();
  const agents: OpenAgent[] = [];
  for (const credentials of options.agents) {
    const agent = await openAgent({ url }, credentials, { heard });
    fetchers.set(
      agent,
      worker(agent, (command) => deploymentOf.set(command.commandId, command.deploymentId), troubles),
    );
    void agent.ended.then((why) => troubles.push(`an agent's stream ended: ${why}`));
    agents.push(agent);
  }
  // Between rounds too: a silent agent's session is closed, and a token does not last for a whole run.
  let beats = 0;
  const beating = setInterval(() => {
    beats += 1;
    for (const agent of agents) {
      agent.send({ case: "heartbeat", value: { number: beats, capacity: { placesFree: 16 } } });
      if (beats % newTokenEach === 0) agent.send({ case: "tokenRequest", value: {} });
    }
  }, heartbeatMs);
  const callers: ClientHttp2Session[] = [];
  for (let index = 0; index < callerConnections; index += 1) callers.push(await dial({ url: options.callAt ?? url }));

  const reset = (): void => {
    pushes.clear();
    records.clear();
    pushedMs = [];
  };
  const commandOn = async (index: number, session: ClientHttp2Session): Promise<number> => {
    const deploymentId = deployments[index];
    if (deploymentId === undefined) throw new Error("more callers than deployments");
    const body = toBinary(
      ReconcileDeploymentRequestSchema,
      create(ReconcileDeploymentRequestSchema, { id: deploymentId }),
    );
    const place: Place = { deploymentId, calledAt: performance.now(), recorded: () => undefined };
    const recorded = new Promise<void>((resolve) => (place.recorded = resolve));
    places.set(deploymentId, place);
    await callUnary(session, reconcilePath, authorization, body);
    const acceptedMs = performance.now() - place.calledAt;
    await recorded;
    places.delete(deploymentId);
    return acceptedMs;
  };
  const callerOf = (index: number): ClientHttp2Session => callers[index % callers.length] as ClientHttp2Session;

  return {
    async run({ callers: many, forMs, limit = Number.POSITIVE_INFINITY }) {
      reset();
      const acceptedMs: number[] = [];
      let begun = 0;
      const startedAt = performance.now();
      const loop = async (index: number): Promise<void> => {
        while (performance.now() - startedAt < forMs && begun < limit) {
          begun += 1;
          acceptedMs.push(await commandOn(index, callerOf(index)));
        }
      };
      const late = new Promise<never>((_, reject) => {
        const timer = setTimeout(
          () => reject(new Error(`void: ${places.size} commands have no recorded result; ${troubles.join("; ")}`)),
          forMs + drainWithinMs,
        );
        timer.unref();
      });
      await Promise.race([Promise.all(Array.from({ length: many }, (_, index) => loop(index))), late]);
      const seconds = (performance.now() - startedAt) / 1000;
      refuseUnlessOnce(begun, pushes, records, troubles);
      return { commands: begun, seconds, acceptedMs, pushedMs };
    },
    async oneByOne({ commands, pauseMs }) {
      reset();
      const offset = wallClockOffset();
      const seen = (arrivals = new Map<string, number>());
      for (let number = 0; number < commands; number += 1) {
        await commandOn(number % deployments.length, callerOf(0));
        await sleep(pauseMs);
      }
      arrivals = undefined;
      refuseUnlessOnce(commands, pushes, records, troubles);
      return new Map([...seen].map(([id, at]) => [id, at + offset]));
    },
    async close() {
      clearInterval(beating);
      for (const agent of agents) agent.drop();
      for (const session of callers) cut(session);
    },
  };
}

/** What is added to performance.now() gives the machine's clock, which Date.now() shows in whole milliseconds. */
function wallClockOffset(): number {
  const before = Date.now();
  let at = before;
  while (at === before) at = Date.now();
  return at - performance.now();
}

/** V1. */
export function refuseUnlessOnce(
  accepted: number,
  pushes: ReadonlyMap<string, number>,
  records: ReadonlyMap<string, number>,
  troubles: readonly string[],
): void {
  const more = (map: ReadonlyMap<string, number>): number => [...map.values()].filter((times) => times > 1).length;
  if (records.size !== accepted || more(records) > 0 || more(pushes) > 0 || troubles.length > 0)
    throw new Error(
      `void: ${accepted} commands accepted, results of ${records.size} recorded, ${more(records)} of them more than ` +
        `once, ${more(pushes)} pushed more than once; ${troubles.slice(0, 3).join("; ")}`,
    );
}

/** Fetches as an agent does, one call at a time for all that came meanwhile; then receipt and result. */
function worker(agent: OpenAgent, taken: (command: DeployCommand) => void, troubles: string[]) {
  let waiting: DeployCommand[] = [];
  let running = false;
  const drain = async (): Promise<void> => {
    running = true;
    await Promise.resolve(); // what is pushed in the same turn shares the call
    while (waiting.length > 0) {
      const batch = waiting.splice(0, fetchTogether);
      const fetched = await agent.fetch(batch.map(({ commandId, attempt }) => ({ commandId, attempt })));
      if (fetched.length !== batch.length) throw new Error(`${fetched.length} of ${batch.length} specs`);
      for (const [index, command] of batch.entries()) {
        if (fetched[index]?.commandId !== command.commandId || fetched[index].spec.length === 0)
          throw new Error(`no spec: ${fetched[index]?.reason}`);
        const { commandId, attempt } = command;
        taken(command);
        agent.send({ case: "commandReceipt", value: { commandId, attempt, disposition: Receipt.ACCEPTED } });
        agent.send({ case: "deployResult", value: { commandId, attempt, outcome: DeployResult_Outcome.SUCCEEDED } });
      }
    }
    running = false;
  };
  return (command: DeployCommand): void => {
    waiting.push(command);
    if (!running) drain().catch((error: unknown) => troubles.push(`fetch: ${String(error)}`));
  };
}
