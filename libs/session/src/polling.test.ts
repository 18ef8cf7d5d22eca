/** The agent's end of a session without a stream, over real HTTP/1.1 on loopback. */
import { Agent, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { afterEach, expect, test } from "@jest/globals";
import { AgentMessageSchema, PollingService, ResultAck_Disposition, type ServerMessage } from "@bowline/contract/agent";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import type { AgentChannel } from "./open.ts";
import { openPolling } from "./polling.ts";
import { createPollTransport } from "./transport.ts";

const endings: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
});

/** A server that greets, takes Sync and holds polls; `methods` are its others. */
async function poll(methods: Partial<ServiceImpl<typeof PollingService>>): Promise<AgentChannel> {
  const over = new AbortController();
  const server = createServer(
    connectNodeAdapter({
      routes: (router) =>
        router.service(PollingService, {
          openSession: () => ({ epoch: 1 }),
          sendSync: () => ({ last: true }),
          closeSession: () => ({}),
          receiveCommands: (_, { signal }) =>
            new Promise((resolve) => {
              AbortSignal.any([signal, over.signal]).addEventListener("abort", () => resolve({}), { once: true });
            }),
          ...methods,
        }),
    }),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const stop = new AbortController();
  const noStream = () => {
    throw new Error("no stream is tried here");
  };
  const transport = createPollTransport({ url, agent: new Agent({ keepAlive: true }), stream: noStream });
  const channel = openPolling(transport.unary, { assertion: "x" }, stop.signal);
  endings.push(async () => {
    stop.abort();
    await channel.released;
    transport.close();
    over.abort();
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  say(channel, { case: "connectRequest", value: { processId: "p" } });
  say(channel, { case: "sync", value: { last: true } });
  return channel;
}

function say(
  channel: AgentChannel,
  message: NonNullable<Parameters<typeof create<typeof AgentMessageSchema>>[1]>["message"],
) {
  channel.send(create(AgentMessageSchema, { message } as Parameters<typeof create<typeof AgentMessageSchema>>[1]));
}

const result = (channel: AgentChannel, commandId: string) =>
  say(channel, { case: "deployResult", value: { commandId, attempt: 1 } });

/** What the server says, until one fits. */
async function heardUntil(channel: AgentChannel, fits: (message: ServerMessage["message"]) => boolean) {
  const heard: ServerMessage["message"][] = [];
  for await (const { message } of channel.messages) {
    heard.push(message);
    if (fits(message)) break;
  }
  return heard;
}

const recorded = (commandId: string) => ({ commandId, attempt: 1, disposition: ResultAck_Disposition.RECORDED });

test("what gathers while a request is under way goes up in one, in order, and each gets its answer", async () => {
  const requests: string[][] = [];
  let channel: AgentChannel | undefined;
  channel = await poll({
    sendResults({ results }) {
      requests.push(results.map(({ commandId }) => commandId));
      // Said while the first is not answered yet.
      if (requests.length === 1 && channel !== undefined) for (const id of ["b", "c", "d"]) result(channel, id);
      return { acks: results.map(({ commandId }) => recorded(commandId)) };
    },
  });
  result(channel, "a");
  const heard = await heardUntil(channel, ({ case: kind, value }) => kind === "resultAck" && value.commandId === "d");
  expect(requests).toEqual([["a"], ["b", "c", "d"]]);
  expect(heard.flatMap(({ case: kind, value }) => (kind === "resultAck" ? [value.commandId] : []))).toEqual([
    ...["a", "b", "c", "d"],
  ]);
});

test("where one of those that go together is not taken, the others are", async () => {
  const taken: string[] = [];
  const refuse = () => {
    throw new ConnectError("no", Code.InvalidArgument, undefined, [
      { desc: ErrorInfoSchema, value: { reason: "INVALID_ARGUMENT" } },
    ]);
  };
  const channel = await poll({
    sendResults({ results }) {
      if (results.some(({ commandId }) => commandId === "bad")) refuse();
      taken.push(...results.map(({ commandId }) => commandId));
      return { acks: results.map(({ commandId }) => recorded(commandId)) };
    },
  });
  for (const id of ["a", "bad", "b"]) result(channel, id);
  const heard = await heardUntil(channel, ({ case: kind, value }) => kind === "resultAck" && value.commandId === "b");
  expect(taken).toEqual(["a", "b"]);
  const refused = heard.flatMap(({ case: kind, value }) => (kind === "messageRefused" ? [value] : []));
  expect(refused).toMatchObject([{ reason: "INVALID_ARGUMENT", commandId: "bad" }]);
});

test("a request whose answer got lost is sent again, before what came after it", async () => {
  const requests: string[][] = [];
  const channel = await poll({
    sendResults({ results }) {
      requests.push(results.map(({ commandId }) => commandId));
      if (requests.length <= 2) throw new ConnectError("something between", Code.Unavailable);
      return { acks: results.map(({ commandId }) => recorded(commandId)) };
    },
  });
  for (const id of ["a", "b"]) result(channel, id);
  await heardUntil(channel, ({ case: kind, value }) => kind === "resultAck" && value.commandId === "b");
  expect(requests).toEqual([
    ["a", "b"],
    ["a", "b"],
    ["a", "b"],
  ]);
});
