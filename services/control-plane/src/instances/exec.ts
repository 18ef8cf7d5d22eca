/**
 * A program in an instance, between its caller and the agent.
 *
 * X1: who ran what, and where, is recorded before it runs; what is typed and
 *     answered never is.
 * X2: it ends with its caller, and its caller with it.
 */
import { create } from "@bufbuild/protobuf";
import { type TunnelRequest, TunnelOutput_Source } from "@bowline/contract/agent";
import { type ExecRequest, type ExecResponse, ExecResponseSchema, type ExecStart } from "@bowline/contract/instances";
import { isReason, problem, type Problem } from "@bowline/kernel";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { transact } from "../platform/transactions.ts";
import type { Tunnel } from "../tunnels/index.ts";
import type { InstancePorts, Place } from "./ports.ts";
import { listed, placesOf } from "./resolve.ts";

/** A terminal that somebody left open; as long as people go for lunch. */
const idleMs = 30 * 60_000;
const idleLookMs = 10_000;

export async function* exec(
  ports: InstancePorts,
  caller: Caller,
  requests: AsyncIterable<ExecRequest>,
  signal: AbortSignal,
): AsyncGenerator<ExecResponse> {
  const iterator = requests[Symbol.asyncIterator]();
  const start = await startOf(ports, iterator);
  const place = await onePlace(ports, caller, start);
  const { agentId, agent, service, index, deploymentId } = place;
  const tunnel = await ports.tunnels.open(
    { agentId, agent, purpose: "exec", principalId: caller.principal.id },
    signal,
  );
  const over = new AbortController();
  const close = (): void => tunnel.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    await record(ports, caller, start, place);
    yield create(ExecResponseSchema, {
      message: { case: "started", value: { agent, service, index, deploymentId } },
    });
    await tunnel.send({ case: "exec", value: execOf(start, place) });
    const moved = watchIdle(ports, tunnel, over.signal);
    void pass(ports, iterator, tunnel, moved).catch((error: unknown) => tunnel.fail(asProblem(error)));
    let ended = false;
    for await (const told of tunnel.frames) {
      moved();
      const answer = answerOf(told, agent);
      if (answer === undefined) continue;
      yield answer;
      ended = answer.message.case === "exit";
      if (ended) return;
    }
    if (!ended && !signal.aborted) throw problem("TUNNEL_LOST");
  } finally {
    over.abort();
    signal.removeEventListener("abort", close);
    close(); // X2
  }
}

async function startOf(ports: InstancePorts, iterator: AsyncIterator<ExecRequest>): Promise<ExecStart> {
  const first = await iterator.next();
  if (first.done === true || first.value.message.case !== "start")
    throw problem("INVALID_ARGUMENT", "The first message is `start`.");
  ports.check(first.value);
  return first.value.message.value;
}

/** The instance that is meant. Throws INSTANCE_AMBIGUOUS, INSTANCE_NOT_RUNNING. */
async function onePlace(ports: InstancePorts, { principal }: Caller, start: ExecStart): Promise<Place> {
  const { stack, deploymentId, service, agent, index } = start;
  const places = await placesOf(ports, principal, { stack, deploymentId, services: [service], agent, index });
  const running = places.filter(({ phase }) => phase === "RUNNING");
  const [first] = running;
  if (first === undefined)
    throw problem(
      "INSTANCE_NOT_RUNNING",
      `None runs now: ${listed(places)} (${places.map((one) => one.phase).join(", ")}).`,
    );
  if (new Set(running.map(({ deploymentId: of }) => of)).size > 1)
    throw problem("INSTANCE_AMBIGUOUS", `More than one matches: ${listed(running)}. Name the agent (--agent).`);
  return first;
}

function execOf({ command, tty, size }: ExecStart, { deploymentId, workload, index }: Place) {
  return {
    instance: { deploymentId, workload, index },
    ...{ command, tty },
    ...(size === undefined ? {} : { size: { columns: size.columns, rows: size.rows } }),
  };
}

/** X1. */
async function record(ports: InstancePorts, caller: Caller, { command, tty }: ExecStart, place: Place): Promise<void> {
  const { agent, service, index, deploymentId, organisationId } = place;
  await transact(ports.db, async (work) => {
    await audit(ports.events(), work, caller, {
      action: "instance.exec",
      resourceKind: "deployment",
      resourceId: deploymentId,
      organisationId, // whoever it was: it is told to those whose instance it is
      after: { agent, service, index, command, tty },
    });
  });
}

/** What the caller says, to the agent; the end of it is the end of stdin. */
async function pass(
  ports: InstancePorts,
  iterator: AsyncIterator<ExecRequest>,
  tunnel: Tunnel,
  moved: () => void,
): Promise<void> {
  for (;;) {
    const next = await iterator.next();
    if (next.done === true) return void (await tunnel.send({ case: "stdinEnd", value: {} }));
    ports.check(next.value);
    moved();
    const { message } = next.value;
    if (message.case === "stdin") await tunnel.send({ case: "stdin", value: message.value });
    else if (message.case === "resize") {
      const { columns, rows } = message.value;
      await tunnel.send({ case: "resize", value: { columns, rows } });
    } else throw problem("INVALID_ARGUMENT", "After `start` come `stdin` and `resize`.");
  }
}

function asProblem(error: unknown): Problem {
  return error instanceof Error && "reason" in error
    ? (error as Problem)
    : problem("TUNNEL_LOST", "The caller is gone.");
}

function answerOf({ frame }: TunnelRequest, agent: string): ExecResponse | undefined {
  switch (frame.case) {
    case "output": {
      const kind = frame.value.source === TunnelOutput_Source.STDERR ? "stderr" : "stdout";
      return create(ExecResponseSchema, { message: { case: kind, value: frame.value.data } });
    }
    case "exit":
      return create(ExecResponseSchema, { message: { case: "exit", value: { code: frame.value.code } } });
    case "error": {
      const { reason, message } = frame.value;
      if (reason === "UNSUPPORTED") throw problem("EXEC_UNSUPPORTED", `The agent ${agent}: ${message}`);
      throw problem(
        isReason(reason) && reason !== "INTERNAL" ? reason : "TUNNEL_LOST",
        `The agent ${agent}: ${message}`,
      );
    }
    default:
      return undefined; // a newer agent's word
  }
}

/** Ends the tunnel when nothing has moved for long; call what it returns whenever something does. */
function watchIdle(ports: InstancePorts, tunnel: Tunnel, over: AbortSignal): () => void {
  const { clock } = ports;
  let movedAt = clock.monotonicMs();
  void (async () => {
    while (!over.aborted) {
      await clock.sleep(idleLookMs, over);
      if (clock.monotonicMs() - movedAt > idleMs) tunnel.fail(problem("TUNNEL_IDLE"));
    }
  })();
  return () => {
    movedAt = clock.monotonicMs();
  };
}
