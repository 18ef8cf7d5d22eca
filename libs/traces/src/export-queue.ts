/**
 * Spans that have ended, on their way to the exporter. The SDK's own batches do
 * the same; here the queue can be measured, and its end is bounded.
 *
 * X1: bounded: what finds no place is left out and counted.
 * X2: one export at a time, so that a receiver that hangs holds one batch.
 */
import { type ExportResult, ExportResultCode } from "@opentelemetry/core";
import type { ReadableSpan, SpanExporter, SpanProcessor } from "@opentelemetry/sdk-trace";
import type { TraceEvents } from "./settings.ts";

/** A few publishes to a fleet; a span has about 1 KiB. */
const maxWaiting = 4_096;
/** Spans in one request, as the SDK's default. */
const maxBatch = 512;
/** People look at a trace right after the fact. */
const everyMs = 1_000;
/** At the end, a receiver that is there answers in less; a process that was asked to stop does not wait longer. */
const endWithinMs = 2_000;
/** A receiver that is away is told of this often, not for each batch. */
const warnEveryMs = 60_000;

export interface ExportQueue extends SpanProcessor {
  waiting(): number;
}

export function createExportQueue(exporter: SpanExporter, events: TraceEvents): ExportQueue {
  let waiting: ReadableSpan[] = [];
  let exporting: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  let warnedAt = Number.NEGATIVE_INFINITY;
  let over = false;

  const fail = (spans: number, error: Error | undefined): void => {
    events.dropped(spans);
    if (performance.now() - warnedAt < warnEveryMs) return;
    warnedAt = performance.now();
    events.log.warn({ detail: error?.message ?? "not taken", spans }, "spans could not be exported");
  };
  const exportOne = (spans: ReadableSpan[]): Promise<void> =>
    new Promise((resolve) => {
      exporter.export(spans, ({ code, error }: ExportResult) => {
        if (code !== ExportResultCode.SUCCESS) fail(spans.length, error);
        resolve();
      });
    });
  const drain = async (): Promise<void> => {
    while (waiting.length > 0) await exportOne(waiting.splice(0, maxBatch)); // X2
  };
  const flush = (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    return (exporting ??= drain().finally(() => (exporting = undefined)));
  };

  return {
    onStart: () => undefined,
    onEnd(span) {
      if (over || waiting.length >= maxWaiting) return events.dropped(1); // X1
      waiting.push(span);
      if (waiting.length >= maxBatch) void flush();
      else timer ??= setTimeout(() => void flush(), everyMs).unref();
    },
    forceFlush: flush,
    async shutdown() {
      over = true;
      const late = new AbortController();
      const limit = new Promise<void>((resolve) => {
        const end = setTimeout(resolve, endWithinMs);
        late.signal.addEventListener("abort", () => clearTimeout(end), { once: true });
      });
      await Promise.race([flush(), limit]);
      late.abort();
      if (waiting.length > 0) events.dropped(waiting.length);
      waiting = [];
      // Not awaited: it waits for a request that hangs; nothing of it keeps the process.
      void exporter.shutdown().catch(() => undefined);
    },
    waiting: () => waiting.length,
  };
}
