/**
 * Spans of one piece of work over several processes, exported by OTLP/HTTP.
 *
 *   settings.ts      what OTEL_* says       otlp.ts    the SDK, loaded only where it is wanted
 *   export-queue.ts  what waits to be sent  span.ts    what the rest of the code sees
 *
 * T1: off costs nothing: no package of OpenTelemetry is loaded, and a span is
 *     one shared object or the caller's own traceparent handed on.
 * T2: nothing waits for a span, and none fails a call.
 * T3: no attribute is a secret, a name or a text for people: ids, states and
 *     stable reasons only.
 */
import { type TraceSettings, type TraceEvents } from "./settings.ts";
import { noTraces, type Traces } from "./span.ts";

export { readTraceSettings, type TraceEvents, type TraceSettings, TraceSettingsError } from "./settings.ts";
export { asTraceparent, noTraces, type Span, type SpanOptions, type Traces } from "./span.ts";

/** Starts exporting where `settings` say so. */
export async function openTraces(settings: TraceSettings | undefined, events: TraceEvents): Promise<Traces> {
  if (settings === undefined) return noTraces; // T1
  const { openOtlp } = await import("./otlp.ts");
  return openOtlp(settings, events);
}
