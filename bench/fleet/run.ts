/**
 * One run, from a server to a report.
 *
 *   options.ts  what it is told      server.ts  a server of its own
 *   load.ts     publishes            check.ts   the server's side against the agents'
 *   view.ts     while it runs        report.ts  at the end      machine.ts  what is used
 *
 * R1: whatever ends it, what it started ends, and what it made goes, but for
 *     what --keep leaves.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Writable } from "node:stream";
import type { DialTarget } from "@bowline/dial";
import { refusalOf } from "@bowline/session";
import { type Fleet, startFleet } from "@bowline/testing/fleet";
import { type Api, openApi, targetOf } from "./api.ts";
import { type Check, compare, openOf } from "./check.ts";
import { createLoad, groupLabel, groupsOf, type Load } from "./load.ts";
import { describeMachine, type ServerUse, useOf } from "./machine.ts";
import type { Options } from "./options.ts";
import { type Report, reportOf, type ServerReport } from "./report.ts";
import { startOwnServer } from "./server.ts";
import { createView, type View } from "./view.ts";

/** For the enrolments of an idle server; slow ones are told by the view, and cut by Ctrl-C. */
const enrolWithinMs = (agents: number): number => 120_000 + agents * 100;
/** For what is under way when the load ends: above a half-open connection's silence limit. */
const settleWithinMs = 120_000;
/** Of the time of the load: what goes wrong has a time before it to compare with, and one to come back in. */
const misbehaveAfterShare = 0.25;
const showEveryMs = 1_000;
const lookEveryMs = 100;
/** A cluster goes when its agents have removed what they have. */
const removeWithinMs = 120_000;

/** Thrown where a run can't begin or go on; the message is for people. */
export class RunError extends Error {}

interface Place {
  target: DialTarget;
  api: Api | undefined;
  serverPid: number | undefined;
  /** Text of the registration token. */
  token: string;
  /** The cluster that was made for the run. */
  cluster: string | undefined;
}

/** Runs it. Progress goes to `out`; `interrupted` ends it early, in order. */
export async function run(
  options: Options,
  out: Writable & { isTTY?: boolean },
  interrupted: AbortSignal,
): Promise<Report> {
  const view = createView(out, out.isTTY === true && options.decorated && options.output === "text");
  const name = `fleet-${options.seed.toString(36)}-${Date.now().toString(36)}`;
  const endings: (() => Promise<void> | void)[] = [];
  try {
    const place = await findPlace(options, name, view, endings);
    return await runAt(place, options, name, view, endings, interrupted);
  } finally {
    view.end();
    for (const end of endings.toReversed()) await end(); // R1
  }
}

type Endings = (() => Promise<void> | void)[];

async function findPlace(options: Options, name: string, view: View, endings: Endings): Promise<Place> {
  let { server: url, operatorToken, serverPid } = options;
  if (url === undefined) {
    view.say("  starting a server with an embedded PostgreSQL in a temporary folder");
    const own = await startOwnServer(options.serverFlags);
    endings.push(() => own.stop());
    ({ url, operatorToken, pid: serverPid } = own);
  }
  const target = targetOf(url, options.caFile);
  const api = operatorToken === undefined ? undefined : openApi(target, operatorToken);
  if (api !== undefined) endings.push(() => api.close());
  if (options.registrationToken !== undefined)
    return { target, api, serverPid, token: options.registrationToken, cluster: undefined };
  if (api === undefined) throw new RunError("there is no registration token, and no API token to make one");
  const { id } = await api.clusters.createCluster({
    cluster: { name, runtime: "local", policy: { allowBulkEnrolment: true } },
  });
  const { token } = await api.tokens.createRegistrationToken({ clusterId: id, maxUses: options.agents });
  return { target, api, serverPid, token, cluster: id };
}

async function runAt(
  place: Place,
  options: Options,
  name: string,
  view: View,
  endings: Endings,
  interrupted: AbortSignal,
): Promise<Report> {
  const { api } = place;
  const startedAt = new Date();
  const before = place.serverPid === undefined ? undefined : await useOf(place.serverPid);
  const ownMemory = process.memoryUsage().rss;
  const fleet = startFleetOf(place, options, name);
  let load: Load | undefined;
  endings.push(async () => {
    if (place.cluster !== undefined && options.server !== undefined && !options.keep && api !== undefined)
      await removeCluster(api, place.cluster, view);
    await load?.clean();
    await fleet.stop();
  });
  if (api !== undefined && options.publishRate > 0) {
    const { agents, agentsPerPublish, publishRate: perSecond } = options;
    load = createLoad({
      api,
      clusterId: () => place.cluster ?? fleet.clusterId(),
      name,
      agents,
      agentsPerPublish,
      perSecond,
    });
  }
  const showing = show(view, fleet, load, options.agents, place.serverPid);
  try {
    const from = performance.now();
    showing.step = "enrolling";
    await serving(fleet, options.agents, interrupted);
    const enrolMs = performance.now() - from;
    showing.step = `load for ${Math.round(options.durationMs / 1000)} s`;
    const loadFrom = performance.now();
    const [useFrom, cpuFrom] = [await useAt(place), process.cpuUsage()];
    await underLoad(fleet, load, options, interrupted, (what) => (showing.step = what));
    const loadMs = performance.now() - loadFrom;
    const cpu = process.cpuUsage(cpuFrom);
    const use = await useAt(place);
    const { serving: served } = fleet.phases;
    showing.step = "comparing with the server";
    const check = await checked(api, place, fleet);
    return reportOf({
      ...{ options, startedAt, enrolMs, loadMs, fleet, load, check },
      machine: describeMachine(),
      serving: served,
      server: serverReport(before, useFrom, use, loadMs),
      simulator: {
        memoryMb: Math.round(process.memoryUsage().rss / 2 ** 20),
        memoryMbBefore: Math.round(ownMemory / 2 ** 20),
        cpu: share((cpu.user + cpu.system) / 1e6, loadMs),
      },
      interrupted: interrupted.aborted,
    });
  } finally {
    showing.stop();
  }
}

function startFleetOf({ target, token }: Place, options: Options, name: string): Fleet {
  const { agents, seed, runMs, failRate, heartbeatMs, misbehave, clockSkewMs, agentsPerPublish } = options;
  const groups = groupsOf(agents, agentsPerPublish);
  return startFleet({
    ...{ target, token, agents, seed, runMs, failRate, misbehave },
    ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
    ...(clockSkewMs === undefined ? {} : { clockSkewMs }),
    prefix: `${name}-`,
    labelsOf: (index) => ({ [groupLabel]: `${name}-${index % groups}` }),
    sourceAddresses: addressesFor(target.url, options.sourceAddresses),
  });
}

/** Linux has all of 127.0.0.0/8 on its loopback; other systems have the first one. */
export function addressesFor(url: string, count: number): string[] {
  if (process.platform !== "linux" || !/^127\.\d+\.\d+\.\d+$/.test(new URL(url).hostname)) return [];
  return Array.from({ length: count }, (_, at) => `127.0.0.${at + 1}`);
}

async function serving(fleet: Fleet, agents: number, interrupted: AbortSignal): Promise<void> {
  const until = performance.now() + enrolWithinMs(agents);
  let refused: unknown;
  fleet.enrolled.catch((error: unknown) => (refused = error));
  while (fleet.phases.serving < agents && !interrupted.aborted) {
    if (refused !== undefined) throw refused;
    if (performance.now() > until) {
      const errors = [...fleet.troubles].map(([reason, count]) => `${reason} ${count}`).join(", ");
      throw new RunError(
        `only ${fleet.phases.serving} of ${agents} agents serve after ${Math.round(enrolWithinMs(agents) / 1000)} s (${errors})`,
      );
    }
    await sleep(lookEveryMs);
  }
}

/** Publishes and misbehaviour for the time that was asked for, then waits for what is under way. */
async function underLoad(
  fleet: Fleet,
  load: Load | undefined,
  { durationMs, misbehave }: Options,
  interrupted: AbortSignal,
  step: (what: string) => void,
): Promise<void> {
  const over = new AbortController();
  const watching = new AbortController();
  const enough = AbortSignal.any([over.signal, interrupted]);
  const watch = load?.watch(watching.signal);
  const publish = load?.publish(enough);
  publish?.catch(() => over.abort()); // it can't begin: told below
  try {
    await pause(durationMs * misbehaveAfterShare, enough);
    for (const kind of Object.keys(misbehave) as (keyof typeof misbehave)[]) fleet.misbehave(kind);
    await pause(durationMs * (1 - misbehaveAfterShare), enough);
    over.abort();
    await publish;
    step("waiting for what is under way");
    const until = performance.now() + settleWithinMs;
    while (!settled(fleet, load) && performance.now() < until && !interrupted.aborted) await sleep(lookEveryMs);
  } finally {
    over.abort();
    watching.abort();
    await watch;
  }
}

function settled(fleet: Fleet, load: Load | undefined): boolean {
  if ((load?.open() ?? 0) > 0 || fleet.ledger.totals().unanswered > 0) return false;
  // Both processes of a duplicate stay away until an operator decides.
  return fleet.misbehaviours().every(({ kind, agents, back }) => kind === "duplicate" || back >= agents);
}

const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  sleep(ms, undefined, { signal }).catch(() => undefined); // over

/** The server may know of an end a moment after the agent has its acknowledgement: never the other way round. */
async function checked(api: Api | undefined, place: Place, fleet: Fleet): Promise<Check> {
  const unasked = { compared: false, commands: 0, byState: {}, violations: [...fleet.ledger.violations] };
  const cluster = place.cluster ?? fleet.clusterId();
  if (api === undefined || cluster === "") return unasked;
  const check = await compare(api, cluster, fleet);
  const open = openOf(check) - (check.byState["RETRY_WAIT"] ?? 0); // these wait for their next try at the server
  if (
    open > 0 &&
    fleet.ledger.totals().unanswered === 0 &&
    fleet.misbehaviours().every(({ kind }) => kind !== "duplicate")
  )
    check.violations.push(`${open} commands are open at the server, and no agent has any`);
  return check;
}

const useAt = async ({ serverPid }: Place): Promise<ServerUse | undefined> =>
  serverPid === undefined ? undefined : useOf(serverPid);

function serverReport(
  before: ServerUse | undefined,
  from: ServerUse | undefined,
  to: ServerUse | undefined,
  ms: number,
): ServerReport | undefined {
  if (before === undefined || from === undefined || to === undefined) return undefined;
  return {
    memoryMb: to.server.memoryMb,
    memoryMbBefore: before.server.memoryMb,
    databaseMemoryMb: to.database.memoryMb,
    cpu: share(to.server.cpuSeconds - from.server.cpuSeconds, ms),
    databaseCpu: share(to.database.cpuSeconds - from.database.cpuSeconds, ms),
  };
}

/** Cores that were busy, on average. */
const share = (cpuSeconds: number, ms: number): number =>
  Math.max(0, Math.round((cpuSeconds / (ms / 1000)) * 100) / 100); // below zero: a process has ended

function show(view: View, fleet: Fleet, load: Load | undefined, agents: number, serverPid: number | undefined) {
  const showing = { step: "", stop: () => clearInterval(timer) };
  let last: { at: number; cpuSeconds: number } | undefined;
  const timer = setInterval(() => {
    void (serverPid === undefined ? Promise.resolve(undefined) : useOf(serverPid)).then((use) => {
      const at = performance.now();
      const cpuSeconds = use?.server.cpuSeconds ?? 0;
      const cpu = last === undefined ? 0 : share(cpuSeconds - last.cpuSeconds, at - last.at);
      last = { at, cpuSeconds };
      const server = use === undefined ? undefined : { memoryMb: use.server.memoryMb, cpu };
      view.show({ step: showing.step, fleet, load, agents, server });
    });
  }, showEveryMs);
  return showing;
}

/** Its agents remove what they have, and are not agents any more. */
async function removeCluster(api: Api, id: string, view: View): Promise<void> {
  view.say("  removing the cluster");
  const until = performance.now() + removeWithinMs;
  try {
    await api.clusters.deleteCluster({ id, cascade: true });
    while (performance.now() < until) {
      await sleep(showEveryMs);
      await api.clusters.getCluster({ id });
    }
    view.say(`  the cluster ${id} is still being removed: bowline cluster show ${id}`);
  } catch (error) {
    const { reason, message } = refusalOf(error);
    if (reason !== "NOT_FOUND") view.say(`  the cluster ${id} was not removed: ${reason}: ${message}`);
  }
}
