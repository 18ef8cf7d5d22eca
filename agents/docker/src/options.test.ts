import { expect, test } from "@jest/globals";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type ContainerOptionsSchema, WorkloadSchema } from "@bowline/contract/deployments";
import { hostSettings } from "./options.ts";

const logOf = (container?: Exclude<MessageInitShape<typeof ContainerOptionsSchema>, { $typeName: string }>): unknown =>
  (hostSettings(create(WorkloadSchema, container === undefined ? {} : { container }), 1000) as { LogConfig: unknown })
    .LogConfig;

test("output that stays on the host is bounded whatever the spec says of logging, but for bounds of its own", () => {
  const bounds = { "max-size": "1000", "max-file": "2" };
  expect(logOf()).toEqual({ Type: "json-file", Config: bounds });
  expect(logOf({})).toEqual({ Type: "json-file", Config: bounds });
  expect(logOf({ logDriver: "json-file" })).toEqual({ Type: "json-file", Config: bounds });
  expect(logOf({ logDriver: "local" })).toEqual({ Type: "local", Config: bounds });
  expect(logOf({ logOptions: { labels: "team" } })).toEqual({
    Type: "json-file",
    Config: { ...bounds, labels: "team" },
  });
  expect(logOf({ logOptions: { "max-size": "64k" } })).toMatchObject({
    Config: { "max-size": "64k", "max-file": "2" },
  });
});

test("a log driver that sends output away gets the spec's options alone", () => {
  expect(logOf({ logDriver: "syslog", logOptions: { tag: "web" } })).toEqual({
    Type: "syslog",
    Config: { tag: "web" },
  });
  expect(logOf({ logDriver: "none" })).toEqual({ Type: "none", Config: {} });
});
