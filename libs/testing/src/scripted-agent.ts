/**
 * The mock agent for others' tests: an agent whose every word the test says,
 * over a real socket, with keys of its own. It runs nothing and keeps no
 * journal; it does what the script says, also what no real agent would.
 *
 *     const agent = await enrolScriptedAgent({ url, token });   // or server.scriptedAgent({ cluster: "local" })
 *     await agent.connect();                                    // greeting and an empty Sync
 *     const command = await agent.nextCommand();                // a DeployCommand, as it is pushed
 *     const spec = await agent.receive(command);                // fetch, then the receipt
 *     await agent.report(command, { succeeded: true });         // "RECORDED": the ResultAck's disposition
 *     await agent.goodbye();                                    // or agent.drop(), which cuts the connection
 *
 * An agent may have several sessions: `connect` returns each; the agent's own
 * methods act on the newest. See scripted-session.ts for what a session says,
 * and raw-stream.ts for bytes that are no messages. Nothing is sent by itself,
 * heartbeats neither: a session that says nothing is closed by the server after
 * its silence limit.
 */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { generateKey, type KeyPair, signAssertion, signEnrolmentProof } from "@bowline/auth";
import { AgentService, type EnrollResponse } from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import { atEnd } from "./endings.ts";
import { openScriptedSession, type ScriptedSession, type SessionScript } from "./scripted-session.ts";

export interface EnrolOptions {
  url: string;
  /** Text of a registration token. */
  token: string;
  name?: string;
  hostname?: string;
  /** Default: `local`. */
  runtime?: string;
  labels?: Record<string, string>;
  /** Default: new ones. Give the same key again for the same agent. */
  key?: KeyPair;
  /** Default: a new one per agent. */
  runtimeIdentity?: string;
}

/** What `connect` may say otherwise than a real agent would. */
export interface ConnectOptions extends SessionScript {
  /** Default: where it enrolled. Give the URL of another replica to move there. */
  url?: string;
  /** Default: above every one before. */
  counter?: number;
  /** Signs the assertion. Default: the agent's own key. */
  key?: KeyPair;
  /** Default: the installation's id. */
  audience?: string;
  /** The agent's clock, ms since 1970. */
  now?: number;
  /** The whole `authorization` header, instead of an assertion. */
  authorization?: string;
}

type SessionActs = Omit<ScriptedSession, "greeting" | "ended" | "received">;

export interface ScriptedAgent extends EnrollResponseFacts, SessionActs {
  url: string;
  key: KeyPair;
  runtimeIdentity: string;
  /** A signed assertion; its counter counts as used. */
  assertion(options?: Pick<ConnectOptions, "counter" | "key" | "audience" | "now">): Promise<string>;
  /** Opens a session and, unless told otherwise, sends an empty Sync. Rejects with the server's ConnectError. */
  connect(options?: ConnectOptions): Promise<ScriptedSession>;
  /** The newest session. Throws where there is none. */
  session(): ScriptedSession;
}

type EnrollResponseFacts = Pick<EnrollResponse, "agentId" | "name" | "clusterId" | "cluster" | "installationId">;

/** Enrols an agent with new keys. Rejects with the server's ConnectError. */
export async function enrolScriptedAgent(options: EnrolOptions): Promise<ScriptedAgent> {
  const { url } = options;
  const key = options.key ?? (await generateKey("Ed25519"));
  const sealing = await generateKey("X25519");
  const runtimeIdentity = options.runtimeIdentity ?? newId("runtime");
  const proof = await signEnrolmentProof(key, {
    tokenId: options.token.split("_")[1] ?? "",
    audience: new URL(url).origin,
    runtimeIdentity,
    now: Date.now(),
  });
  const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1", nodeOptions: { agent: false } });
  const runtime = options.runtime ?? "local";
  const enrolled = await createClient(AgentService, transport).enroll({
    token: options.token,
    signingKey: JSON.stringify(key.publicJwk),
    sealingKey: JSON.stringify(sealing.publicJwk),
    proof,
    name: options.name ?? "",
    hostname: options.hostname ?? "scripted",
    runtime,
    labels: options.labels ?? {},
    runtimeIdentity,
    agentVersion: "0.0.0-scripted",
  });
  return scriptedAgent({ ...options, url, key, runtimeIdentity, runtime }, enrolled);
}

/** The agent that enrolled. */
function scriptedAgent(
  facts: { url: string; key: KeyPair; runtimeIdentity: string; runtime: string; labels?: Record<string, string> },
  enrolled: EnrollResponse,
): ScriptedAgent {
  const { url, key, runtimeIdentity, runtime, labels = {} } = facts;
  const { agentId, name, clusterId, cluster, installationId } = enrolled;
  const journalId = newId("journal");
  const processId = newId("process");
  let counter = 0;
  const sessions: ScriptedSession[] = [];
  atEnd(() => sessions.forEach((open) => open.drop()));

  const session = (): ScriptedSession => {
    const newest = sessions.at(-1);
    if (newest === undefined) throw new Error("the scripted agent has not connected");
    return newest;
  };
  const assertion: ScriptedAgent["assertion"] = async (options = {}) => {
    const signed = options.counter ?? Math.max(counter + 1, Date.now());
    counter = Math.max(counter, signed);
    return signAssertion(options.key ?? key, {
      agentId,
      audience: options.audience ?? installationId,
      counter: signed,
      now: options.now ?? Date.now(),
    });
  };
  return {
    ...{ url, key, runtimeIdentity, agentId, name, clusterId, cluster, installationId },
    assertion,
    session,
    async connect(options = {}) {
      const { greeting, ...script } = options;
      const opened = await openScriptedSession(
        options.url ?? url,
        options.authorization ?? `Bearer ${await assertion(options)}`,
        {
          processId,
          agentVersion: "0.0.0-scripted",
          protocolMin: 1,
          protocolMax: 1,
          runtime,
          runtimeIdentity,
          capabilities: ["gateway-class/embedded"],
          labels,
          journalId,
          journalCounter: 1,
          ...greeting,
        },
        script,
      );
      sessions.push(opened);
      return opened;
    },
    send: (message) => session().send(message),
    next: (kind, which, options) => session().next(kind, which, options),
    sync: (page) => session().sync(page),
    nextCommand: (options) => session().nextCommand(options),
    fetch: (items, token) => session().fetch(items, token),
    receive: (command) => session().receive(command),
    receipt: (command, disposition, more) => session().receipt(command, disposition, more),
    notNow: (command) => session().notNow(command),
    report: (command, outcome) => session().report(command, outcome),
    progress: (command, more) => session().progress(command, more),
    state: (report) => session().state(report),
    heartbeat: (more) => session().heartbeat(more),
    newToken: () => session().newToken(),
    goodbye: (reason) => session().goodbye(reason),
    drop: () => session().drop(),
  };
}
