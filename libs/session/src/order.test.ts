import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import {
  AgentMessageSchema,
  ServerMessageSchema,
  type AgentMessage,
  type ServerMessage,
} from "@bowline/contract/agent";
import { orderOfAgentMessages, orderOfServerMessages } from "./order.ts";

const up = (message: unknown) => create(AgentMessageSchema, { message } as never) as AgentMessage;
const down = (message: unknown) => create(ServerMessageSchema, { message } as never) as ServerMessage;
const greeting = up({ case: "connectRequest", value: {} });
const page = (last: boolean) => up({ case: "sync", value: { last } });
const heartbeat = up({ case: "heartbeat", value: {} });
const result = up({ case: "deployResult", value: {} });
const goodbye = up({ case: "goodbye", value: {} });

test("the greeting comes first and once", () => {
  expect(orderOfAgentMessages()(heartbeat)).toContain("connect_request comes first");
  expect(orderOfAgentMessages()(up({ case: undefined }))).toContain("connect_request comes first");
  const check = orderOfAgentMessages();
  expect(check(greeting)).toBeUndefined();
  expect(check(greeting)).toContain("once");
});

test("sync pages follow up to the last one, and only then what is about commands", () => {
  const check = orderOfAgentMessages();
  expect([check(greeting), check(page(false)), check(heartbeat)]).toEqual([undefined, undefined, undefined]);
  expect(check(result)).toContain("deploy_result came before");
  expect([check(page(true)), check(result)]).toEqual([undefined, undefined]);
  expect(check(page(true))).toContain("after its last page");
});

test("nothing comes after goodbye, and what is unknown is let through before", () => {
  const check = orderOfAgentMessages();
  for (const message of [greeting, up({ case: undefined }), goodbye]) expect(check(message)).toBeUndefined();
  expect(check(heartbeat)).toContain("after goodbye");
});

test("the server greets first, and sends commands only after its last sync_reply", () => {
  const command = down({ case: "deployCommand", value: {} });
  expect(orderOfServerMessages()(command)).toContain("connect_response comes first");
  const check = orderOfServerMessages();
  expect(check(down({ case: "connectResponse", value: {} }))).toBeUndefined();
  expect(check(command)).toContain("before the last sync_reply");
  expect(check(down({ case: "syncReply", value: { last: true } }))).toBeUndefined();
  expect(check(command)).toBeUndefined();
});
