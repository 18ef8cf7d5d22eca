/**
 * `bowline-agent doctor`: takes the steps of a dial one by one, asks the server
 * what it would answer, and says at which step it ends and what to do.
 *
 *   doctor-steps.ts   the steps           doctor-answer.ts  what the server answers
 *   doctor-report.ts  how it is told      dial.ts           whom an agent trusts
 *
 * D1: it changes nothing, here or there: no key, no file, no token spent, no
 *     session, so it may be called beside an agent that runs.
 * D2: the first step that fails is the answer; what is behind it was not looked
 *     at, and is not said to work. Only behind HTTP/2 one can look further, over
 *     HTTP/1.1, since an agent polls where no stream passes.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readKeyPair, readPrivateFile, signAssertion } from "@bowline/auth";
import { DialError, dialHttp2, dialledAgent, dialSocket, type DialTarget, type StepReport } from "@bowline/dial";
import { createAgentTransport, createPollTransport } from "@bowline/session";
import { type AgentConfig, ConfigError } from "./config.ts";
import { createDialler } from "./dial.ts";
import { type Answer, ask, type Credential, judge } from "./doctor-answer.ts";
import { doctorSteps, failed, type Found, ok, type StepResult } from "./doctor-steps.ts";
import type { Enrolled } from "./identity.ts";

export interface Diagnosis {
  server: string;
  /** All of them, in order. */
  steps: readonly StepResult[];
  /** True: the server answered, over whatever. */
  answered: boolean;
}

/** The server at which the folder's agent enrolled. Throws a ConfigError where it may not be read. */
export function serverOfFolder(dataDir: string): string | undefined {
  try {
    return (JSON.parse(readFileSync(join(dataDir, "agent.json"), "utf8")) as Partial<Enrolled>).server;
  } catch (error) {
    refuseUnreadable(dataDir, error);
    return undefined; // It has not enrolled, or the file is broken, which is told when its key is wanted.
  }
}

function refuseUnreadable(dataDir: string, error: unknown): void {
  if (!["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) return;
  throw new ConfigError(`${dataDir} may not be read by this user: run it as the agent's user, or as root`);
}

/** Takes the steps. Rejects with a ConfigError where the folder's own files cannot be used. */
export async function diagnose(config: AgentConfig, now: () => number = Date.now): Promise<Diagnosis> {
  const found: Found = new Map();
  const credential = await credentialOf(config, now).catch((error: unknown) => {
    refuseUnreadable(config.dataDir, error);
    throw new ConfigError(`${config.dataDir} is not the folder of an agent: ${(error as Error).message}`);
  });
  const target = await dialSteps(config, found);
  let answered = false;
  if (target !== undefined) answered = await askServer(config, target, found, credential, now);
  const steps = doctorSteps.map((step) => found.get(step) ?? ({ step, state: "not-reached" } as const));
  return { server: config.server, steps, answered };
}

/** DNS to HTTP/2. Resolves with what can be asked further; undefined: nothing can. */
async function dialSteps(config: AgentConfig, found: Found): Promise<DialTarget | undefined> {
  const report = (step: StepReport): void => ok(found, step.step, describe(step), step.tookMs);
  const secure = config.server.startsWith("https:");
  const withoutStream = config.transport === "poll";
  let target: DialTarget | undefined;
  let ends = false;
  try {
    target = await createDialler(config, { info: () => undefined }).look(report); // D1
    if (withoutStream) (await dialSocket(target, { report, protocol: "http/1.1" })).destroy();
    else (await dialHttp2(target, { report })).destroy();
    const detail = "not needed with --transport poll";
    if (withoutStream) found.set("http2", { step: "http2", state: "not-needed", detail });
  } catch (error) {
    if (!(error instanceof DialError)) throw error;
    const { step, reason, message, remedy } = error;
    const http2 = reason === "HTTP2_UNAVAILABLE";
    const polls = "The agent polls there meanwhile; with --transport poll this step is left out.";
    const more = http2 && config.transport === "auto" ? `${remedy} ${polls}`.trim() : remedy;
    failed(found, http2 ? "http2" : step, { reason, detail: message, remedy: more });
    if (!http2 || target === undefined) return undefined;
    // D2: TLS may have ended because of the protocol alone.
    if (secure && !(await dialSocket(target, { report, protocol: "http/1.1" }).then(closed, () => false)))
      return undefined;
    ends = config.transport === "stream";
  }
  if (!secure) found.set("tls", { step: "tls", state: "not-needed", detail: "not spoken, the URL is http://" });
  return ends ? undefined : target;
}

function closed(socket: { destroy(): unknown }): true {
  socket.destroy();
  return true;
}

function describe(step: StepReport): string {
  switch (step.step) {
    case "dns":
      return step.addresses.includes(step.host)
        ? `${step.host} is an address`
        : `${step.host} is ${step.addresses.join(", ")}`;
    case "tcp":
      return `port ${step.port} of ${step.address}`;
    case "proxy":
      return step.proxy === undefined ? "none" : `${step.proxy} opens a tunnel`;
    case "tls":
      return `${step.version}, a certificate that is trusted here`;
    case "http2":
      return "spoken";
    default:
      return step satisfies never;
  }
}

async function credentialOf(config: AgentConfig, now: () => number): Promise<Credential> {
  const { dataDir, registrationToken } = config;
  const enrolled = await readPrivateFile(join(dataDir, "agent.json"));
  if (enrolled === undefined)
    return registrationToken === undefined ? { kind: "none" } : { kind: "token", token: registrationToken };
  const { agentId, installationId } = JSON.parse(enrolled) as Enrolled;
  // After a change of keys that was cut short either may be the one that the server has.
  const present = await readPrivateFile(join(dataDir, "signing-key.json"));
  const next = await readPrivateFile(join(dataDir, "next-keys.json"));
  const kept = [
    present,
    next === undefined ? undefined : JSON.stringify((JSON.parse(next) as { signing: unknown }).signing),
  ];
  const assertions: string[] = [];
  for (const text of kept) {
    if (text === undefined) continue;
    // The lowest counter: whoever reads it on the way can open no session of an agent that ever had one.
    const claims = { agentId, audience: installationId, counter: 1, now: now() };
    assertions.push(await signAssertion(await readKeyPair(JSON.parse(text), "Ed25519"), claims));
  }
  return { kind: "agent", assertions };
}

/** Clock, token, version: one question, whose answer tells all three. True: the server answered. */
async function askServer(
  config: AgentConfig,
  target: DialTarget,
  found: Found,
  credential: Credential,
  now: () => number,
): Promise<boolean> {
  const overHttp2 = found.get("http2")?.state === "ok";
  const stream = () => createAgentTransport({ url: config.server, dial: (signal) => dialHttp2(target, { signal }) });
  const transport = overHttp2
    ? stream()
    : createPollTransport({ url: config.server, agent: dialledAgent(config.server, () => target), stream });
  try {
    const shown: { registrationToken?: string; assertion?: string }[] =
      credential.kind === "agent"
        ? credential.assertions.map((assertion) => ({ assertion }))
        : [credential.kind === "token" ? { registrationToken: credential.token } : {}];
    let answer: Answer | undefined;
    for (const request of shown) {
      answer = await ask(transport.unary, request, now);
      if (answer.response !== undefined || !["ASSERTION_INVALID", "AGENT_KEY_REPLACED"].includes(answer.reason)) break;
    }
    if (answer === undefined) throw new Error(`${config.dataDir} has no key`);
    return judge(answer, found, credential);
  } finally {
    transport.close();
  }
}
