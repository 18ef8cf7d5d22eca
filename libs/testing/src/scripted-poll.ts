/**
 * A scripted agent without a stream: the requests of PollingService as any
 * HTTP/1.1 client makes them, JSON over REST.
 *
 *     const poll = await openPoll(agent);                       // opened, with an empty Sync
 *     const [message] = await poll.receive();                   // { deployCommand: { … } }
 *     await poll.ask("POST", "/v1/agent/receipts", { receipts: [ … ] });
 */
import { request } from "node:http";
import { newId } from "@bowline/kernel";
import type { ScriptedAgent } from "./scripted-agent.ts";

/** What a server says; a test looks at it as it comes. */
type Json = Record<string, any>;

export interface RestAnswer {
  status: number;
  /** The JSON of the answer. */
  body: Json;
  /** The stable reason of a failure, else undefined. */
  reason: string | undefined;
}

export interface ScriptedPoll {
  /** The ConnectResponse as JSON. */
  greeting: Json;
  /** A request with the session's access token, or another. A string is sent as it is. */
  ask(method: string, path: string, body?: unknown, token?: string): Promise<RestAnswer>;
  /** One poll with the next number and what came before acknowledged; its messages. Throws where it is refused. */
  receive(wait?: string): Promise<Json[]>;
  /** Polls until a message of that kind comes. */
  next(kind: string): Promise<Json>;
  /** Number and cursor of the next poll. */
  at: { number: number; cursor: string };
}

/** Polls until it gives up: above the server's second push (5 s). */
const maxPolls = 20;

/** Throws the reason where the session is refused. `sync`: false sends none. `urls`: of replicas that
 * take turns, as behind a balancer that knows no sessions. */
export async function openPoll(
  agent: ScriptedAgent,
  options: { greeting?: object; sync?: object | false; urls?: readonly string[]; processId?: string } = {},
): Promise<ScriptedPoll> {
  const urls = options.urls ?? [agent.url];
  let turn = 0;
  const url = (): string => urls[turn++ % urls.length] ?? agent.url;
  const opened = await askRest(url(), "POST", "/v1/agent/sessions", await agent.assertion(), {
    processId: options.processId ?? newId("process"),
    protocolMin: 1,
    protocolMax: 1,
    runtime: "local",
    runtimeIdentity: agent.runtimeIdentity,
    capabilities: ["gateway-class/embedded"],
    journalId: "journal",
    journalCounter: 1,
    ...options.greeting,
  });
  if (opened.status !== 201) throw new Error(`not opened: ${opened.reason}: ${JSON.stringify(opened.body)}`);
  const greeting = opened.body;
  const at = { number: 1, cursor: "" };
  const ask: ScriptedPoll["ask"] = (method, path, body, token = String(greeting["accessToken"])) =>
    askRest(url(), method, path, token, body);
  const receive: ScriptedPoll["receive"] = async (wait = "2s") => {
    const path = `/v1/agent/commands?number=${at.number}&cursor=${at.cursor}&wait=${wait}`;
    const answer = await ask("GET", path);
    at.number += 1;
    if (answer.status !== 200) throw new Error(`${answer.reason}: ${JSON.stringify(answer.body)}`);
    at.cursor = String(answer.body["cursor"]);
    return answer.body["messages"] as Json[];
  };
  if (options.sync !== false) {
    const synced = await ask("POST", "/v1/agent/sync", { pages: [options.sync ?? { last: true }] });
    if (synced.status !== 200) throw new Error(`not synced: ${synced.reason}: ${JSON.stringify(synced.body)}`);
  }
  return {
    ...{ greeting, ask, receive, at },
    async next(kind) {
      for (let polls = 0; polls < maxPolls; polls += 1) {
        for (const message of await receive("1s")) if (message[kind] !== undefined) return message[kind];
      }
      throw new Error(`no ${kind} in ${maxPolls} polls`);
    },
  };
}

/** One request on a connection of its own. A string or a Buffer goes out as it is. */
export function askRest(url: string, method: string, path: string, token: string, body?: unknown): Promise<RestAnswer> {
  const raw = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers = {
      authorization: `Bearer ${token}`,
      ...(raw === undefined ? {} : { "content-type": "application/json" }),
    };
    const call = request(new URL(path, url), { method, agent: false, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => {
        const parsed = JSON.parse(text === "" ? "{}" : text) as RestAnswer["body"];
        const { reason } = parsed as { reason?: string };
        resolve({ status: response.statusCode ?? 0, body: parsed, reason });
      });
      response.on("error", reject);
    });
    call.on("error", reject);
    call.end(raw);
  });
}
