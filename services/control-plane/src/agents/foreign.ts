/**
 * Containers on an agent's host that are not its own: asked through a tunnel each time, kept nowhere.
 *
 * F1: nobody is asked where the cluster's policy does not ask for it, or the host's owner denies it; the agent keeps
 *     to the latter itself.
 * F2: what an agent says is bounded here too: it may be anybody's program.
 */
import { create } from "@bufbuild/protobuf";
import type { TunnelRequest } from "@bowline/contract/agent";
import {
  type ForeignContainer,
  type ListForeignContainersRequest,
  type ListForeignContainersResponse,
  ListForeignContainersResponseSchema,
} from "@bowline/contract/agents";
import { denialsOf, problem, type Problem } from "@bowline/kernel";
import { maxContainerFrames } from "@bowline/session";
import { clusterPolicy } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import { transact } from "../platform/transactions.ts";
import { type AgentPorts, type AgentRow, goneProblem } from "./model.ts";
import { getAgent } from "./queries.ts";

const right = "foreign-containers";

/** An engine that is slow has 60 s at the agent; more is an agent that does not want to end. */
const answerWithinMs = 90_000;

/** Throws what ListForeignContainers documents. */
export async function listForeign(
  ports: AgentPorts,
  caller: Caller,
  request: ListForeignContainersRequest,
  signal: AbortSignal,
): Promise<ListForeignContainersResponse> {
  const { principal } = caller;
  const agent = await getAgent(ports.db, principal, request.agent);
  const list = `foreign ${agent.id}`;
  const after = pageKey(list, request.pageToken, 2);
  const refused = goneProblem(agent) ?? (await refusalOf(ports, caller, agent));
  if (refused !== undefined) throw refused;
  const wish = { agentId: agent.id, agent: agent.name, purpose: right, principalId: principal.id };
  const tunnel = await ports.openTunnel(wish, signal);
  const close = (): void => tunnel.close();
  signal.addEventListener("abort", close, { once: true });
  const late = problem("TUNNEL_LOST", `The agent ${agent.name} did not answer within ${answerWithinMs / 1000} s.`);
  const limit = setTimeout(() => tunnel.fail(late), answerWithinMs);
  try {
    if (after === undefined) await record(ports, caller, agent);
    await tunnel.send({ case: "foreignContainers", value: {} });
    const { containers, truncated } = await gathered(tunnel.frames, agent);
    const matching = containers.filter((one) => matches(one, request)).toSorted(inOrder);
    const rest = matching.filter((one) => after === undefined || isAfter(one, after));
    const page = cutPage(rest, pageSize(request.pageSize), list, ({ name, id }) => [name, id]);
    return create(ListForeignContainersResponseSchema, {
      ...{ containers: page.rows, nextPageToken: page.nextPageToken, truncated },
      ...(request.returnTotalSize ? { totalSize: matching.length } : {}),
    });
  } finally {
    clearTimeout(limit);
    signal.removeEventListener("abort", close);
    close();
  }
}

/** F1. */
async function refusalOf(ports: AgentPorts, { principal }: Caller, agent: AgentRow): Promise<Problem | undefined> {
  const policy = await clusterPolicy(ports.db, principal, agent.cluster_id);
  if (!policy.reportForeignContainers)
    return problem(
      "FOREIGN_CONTAINERS_NOT_REPORTED",
      `The policy of the cluster ${agent.cluster} does not ask for others' containers: cluster update ${agent.cluster} --report-foreign-containers.`,
    );
  if (denialsOf(agent.capabilities).has(right))
    return problem("DENIED_BY_HOST", `The owner of the host of ${agent.name} denies the list of others' containers.`);
  // One that never connected has not said anything yet.
  if (agent.capabilities.length > 0 && !agent.capabilities.includes(right)) return unsupported(agent);
  return undefined;
}

function unsupported({ name, runtime }: AgentRow): Problem {
  const why = runtime === "docker" ? "it is too old for that" : `its runtime (${runtime}) knows none`;
  return problem("FOREIGN_CONTAINERS_UNSUPPORTED", `The agent ${name} cannot tell of others' containers: ${why}.`);
}

async function record({ db, events }: AgentPorts, caller: Caller, agent: AgentRow): Promise<void> {
  await transact(db, (work) =>
    audit(events, work, caller, {
      action: "agent.list_foreign_containers",
      resourceKind: "agent",
      resourceId: agent.id,
      organisationId: "",
    }),
  );
}

async function gathered(
  frames: AsyncIterable<TunnelRequest>,
  agent: AgentRow,
): Promise<{ containers: ForeignContainer[]; truncated: boolean }> {
  const containers: ForeignContainer[] = [];
  let told = 0;
  for await (const { frame } of frames) {
    if (frame.case === "error") throw problemOf(frame.value, agent);
    if (frame.case !== "containers") continue; // a newer agent's word
    containers.push(...frame.value.containers);
    told += 1;
    if (frame.value.truncated || told > maxContainerFrames) return { containers, truncated: true }; // F2
  }
  if (told === 0) throw problem("TUNNEL_LOST", `The agent ${agent.name} ended without an answer.`);
  return { containers, truncated: false };
}

function problemOf({ reason, message }: { reason: string; message: string }, agent: AgentRow): Problem {
  if (reason === "UNSUPPORTED") return unsupported(agent);
  if (reason === "DENIED_BY_HOST") return problem("DENIED_BY_HOST", `The agent ${agent.name}: ${message}.`);
  return problem("TUNNEL_LOST", `The agent ${agent.name} cannot tell: ${message}`);
}

function matches({ name, state }: ForeignContainer, wanted: ListForeignContainersRequest): boolean {
  return (wanted.states.length === 0 || wanted.states.includes(state)) && name.includes(wanted.name);
}

const keyOf = ({ name, id }: ForeignContainer): readonly [string, string] => [name, id];

function inOrder(a: ForeignContainer, b: ForeignContainer): number {
  return isAfter(a, keyOf(b)) ? 1 : isAfter(b, keyOf(a)) ? -1 : 0;
}

function isAfter(one: ForeignContainer, [name = "", id = ""]: readonly string[]): boolean {
  return one.name === name ? one.id > id : one.name > name;
}
