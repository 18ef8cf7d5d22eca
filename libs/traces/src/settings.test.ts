import { expect, test } from "@jest/globals";
import { asTraceparent, noTraces, openTraces, readTraceSettings, TraceSettingsError } from "./index.ts";

const program = { name: "bowline-test", version: "1.2.3" };
const read = (environment: Record<string, string>) => readTraceSettings(environment, program);
const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:4318" };
const on = { serviceName: "bowline-test", serviceVersion: "1.2.3", keep: 1 };

test.each([
  [{}, undefined],
  [{ OTEL_SERVICE_NAME: "somebody", OTEL_EXPORTER_OTLP_HEADERS: "a=b" }, undefined],
  [endpoint, on],
  [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://collector.example/v1/traces" }, on],
  [{ OTEL_TRACES_EXPORTER: "otlp" }, on],
  [{ ...endpoint, OTEL_SDK_DISABLED: "TRUE" }, undefined],
  [{ ...endpoint, OTEL_TRACES_EXPORTER: "none" }, undefined],
  [
    { ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json", OTEL_SERVICE_NAME: "mine" },
    { ...on, serviceName: "mine" },
  ],
  [
    { ...endpoint, OTEL_TRACES_SAMPLER: "parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.25" },
    { ...on, keep: 0.25 },
  ],
  [
    { ...endpoint, OTEL_TRACES_SAMPLER: "parentbased_always_off" },
    { ...on, keep: 0 },
  ],
])("%j is read as %j", (environment, settings) => expect(read(environment)).toEqual(settings));

test.each([
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" }, /^OTEL_EXPORTER_OTLP_ENDPOINT: /],
  [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "ftp://x" }, /^OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: /],
  [{ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }, /^OTEL_EXPORTER_OTLP_PROTOCOL=grpc: /],
  [{ ...endpoint, OTEL_TRACES_EXPORTER: "zipkin" }, /^OTEL_TRACES_EXPORTER=zipkin: /],
  [{ ...endpoint, OTEL_TRACES_SAMPLER: "jaeger_remote" }, /^OTEL_TRACES_SAMPLER=jaeger_remote: /],
  [{ ...endpoint, OTEL_TRACES_SAMPLER: "parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG: "2" }, /_ARG=2: /],
])("%j is refused by the variable's name", (environment, message) => {
  expect(() => read(environment)).toThrow(TraceSettingsError);
  expect(() => read(environment)).toThrow(message);
});

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

test("what is no traceparent is none, and where nothing is exported a caller's is handed on as it came", async () => {
  expect(asTraceparent(parent)).toBe(parent);
  for (const wrong of [
    undefined,
    null,
    "",
    "00-1",
    `${parent}\n`,
    parent.toUpperCase(),
    parent.replace(/b7\w+/, "0".repeat(16)),
  ])
    expect(asTraceparent(wrong)).toBe("");
  const traces = await openTraces(undefined, { dropped: () => undefined, log: { warn: () => undefined } });
  expect(traces).toBe(noTraces);
  expect(traces.start("call", { parent }).traceparent).toBe(parent);
  expect(traces.start("call", { parent: "rubbish" }).traceparent).toBe("");
  expect(traces.part("part", { parent: "" }).traceparent).toBe("");
});
