/**
 * What several instances write, merged: one tunnel for each agent.
 *
 * An agent that fails is an entry in between, and the others go on; the first
 * failure is the call's where no agent is left that told anything.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type LogEntry, LogEntrySchema, type StreamLogsRequest } from "@bowline/contract/instances";
import { isProblem, merged, problem, type Problem } from "@bowline/kernel";
import type { Principal } from "../platform/context.ts";
import type { InstancePorts, Place } from "./ports.ts";
import { createLineReader, type Line } from "./lines.ts";
import { placesOf } from "./resolve.ts";

const defaultLines = 100;

/** What one agent said: lines, or why there are none any more. */
type Told = { entries: LogEntry[] } | { failed: Problem; agent: string };

export async function* streamLogs(
  ports: InstancePorts,
  principal: Principal,
  request: StreamLogsRequest,
  signal: AbortSignal,
): AsyncGenerator<LogEntry[]> {
  const places = await placesOf(ports, principal, request);
  const byAgent = [...Map.groupBy(places, (place) => place.agentId).values()];
  const leaving = new AbortController();
  const over = AbortSignal.any([signal, leaving.signal]);
  const left = new Set(byAgent.map(([first]) => first?.agent));
  let told = false;
  try {
    for await (const item of merged(byAgent.map((of) => ofAgent(ports, principal, of, request, over)))) {
      if ("entries" in item) {
        told = true;
        yield item.entries;
        continue;
      }
      left.delete(item.agent);
      if (left.size === 0 && !told) throw item.failed;
      const { reason, message } = item.failed;
      yield [create(LogEntrySchema, { instance: { agent: item.agent }, reason, message })];
    }
  } finally {
    leaving.abort();
  }
}

async function* ofAgent(
  ports: InstancePorts,
  principal: Principal,
  places: readonly Place[],
  request: StreamLogsRequest,
  signal: AbortSignal,
): AsyncGenerator<Told> {
  const { agentId = "", agent = "" } = places[0] ?? {};
  try {
    yield* linesOf(ports, { agentId, agent, purpose: "logs", principalId: principal.id }, places, request, signal);
  } catch (error) {
    if (!isProblem(error)) throw error;
    if (!signal.aborted) yield { failed: error, agent };
  }
}

async function* linesOf(
  ports: InstancePorts,
  wish: Parameters<InstancePorts["tunnels"]["open"]>[0],
  places: readonly Place[],
  { lines, follow, timestamps }: StreamLogsRequest,
  signal: AbortSignal,
): AsyncGenerator<Told> {
  const tunnel = await ports.tunnels.open(wish, signal);
  const close = (): void => tunnel.close();
  signal.addEventListener("abort", close, { once: true });
  const readers = places.map(() => createLineReader(timestamps));
  try {
    const instances = places.map(({ deploymentId, workload, index }) => ({ deploymentId, workload, index }));
    await tunnel.send({ case: "logs", value: { instances, lines: lines ?? defaultLines, follow, timestamps } });
    for await (const { frame } of tunnel.frames) {
      if (frame.case === "error")
        throw problem("TUNNEL_LOST", `The agent ${wish.agent} cannot tell: ${frame.value.message}`);
      if (frame.case !== "output") continue;
      const place = places[frame.value.instance];
      const read = readers[frame.value.instance]?.feed(frame.value.data) ?? [];
      if (place !== undefined && read.length > 0) yield { entries: read.map((line) => entryOf(place, line)) };
    }
    for (const [number, place] of places.entries()) {
      const rest = readers[number]?.rest() ?? [];
      if (rest.length > 0) yield { entries: rest.map((line) => entryOf(place, line)) };
    }
  } finally {
    signal.removeEventListener("abort", close);
    close();
  }
}

function entryOf({ agent, service, index, deploymentId }: Place, { text, time }: Line): LogEntry {
  const entry: MessageInitShape<typeof LogEntrySchema> = {
    instance: { agent, service, index, deploymentId },
    line: text,
    ...(time === undefined ? {} : { time: timestampFromDate(time) }),
  };
  return create(LogEntrySchema, entry);
}
