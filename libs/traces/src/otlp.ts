/** Spans by OpenTelemetry's SDK, to an OTLP receiver over HTTP. Loaded only where it is wanted (T1). */
import { type Attributes, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, TraceFlags } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { ParentBasedSampler, TraceIdRatioBasedSampler, TracerProvider } from "@opentelemetry/sdk-trace";
import { createExportQueue } from "./export-queue.ts";
import type { TraceEvents, TraceSettings } from "./settings.ts";
import { asTraceparent, noSpan, type Span, type SpanOptions, type Traces } from "./span.ts";

const kinds = { internal: SpanKind.INTERNAL, server: SpanKind.SERVER, client: SpanKind.CLIENT } as const;

export function openOtlp(settings: TraceSettings, events: TraceEvents): Traces {
  const { serviceName, serviceVersion, keep } = settings;
  const queue = createExportQueue(new OTLPTraceExporter(), events);
  const provider = new TracerProvider({
    resource: defaultResource()
      .merge(detectResources({ detectors: [envDetector] }))
      .merge(resourceFromAttributes({ "service.name": serviceName, "service.version": serviceVersion })),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(keep) }),
    spanProcessors: [queue],
  });
  const tracer = provider.getTracer("bowline", serviceVersion);

  function start(name: string, options: SpanOptions = {}): Span {
    const { kind = "internal", at, attributes = {} } = options;
    const span = tracer.startSpan(
      name,
      { kind: kinds[kind], attributes: attributes as Attributes, ...(at === undefined ? {} : { startTime: at }) },
      contextOf(asTraceparent(options.parent)),
    );
    const { traceId, spanId, traceFlags } = span.spanContext();
    return {
      traceparent: `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`,
      set: (more) => void span.setAttributes(more as Attributes),
      end(failure) {
        if (failure !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
        span.end();
      },
    };
  }

  return {
    on: true,
    start,
    part: (name, options) => (options.parent === "" ? noSpan : start(name, options)),
    waiting: () => queue.waiting(),
    shutdown: () => provider.shutdown().catch(() => undefined), // T2
  };
}

function contextOf(traceparent: string) {
  if (traceparent === "") return ROOT_CONTEXT;
  const [, traceId = "", spanId = "", flags = "00"] = traceparent.split("-");
  const traceFlags = Number.parseInt(flags, 16) & TraceFlags.SAMPLED;
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}
