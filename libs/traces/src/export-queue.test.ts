import { ExportResultCode } from "@opentelemetry/core";
import type { ReadableSpan, SpanExporter } from "@opentelemetry/sdk-trace";
import { expect, test } from "@jest/globals";
import { createExportQueue } from "./export-queue.ts";

const span = { name: "a span" } as ReadableSpan;

/** A receiver that answers when it is told to. */
function setUp() {
  const asked: { spans: number; answer: (code: ExportResultCode) => void }[] = [];
  const exporter: SpanExporter = {
    export: (spans, done) => void asked.push({ spans: spans.length, answer: (code) => done({ code }) }),
    shutdown: () => new Promise<void>(() => undefined),
  };
  const counts = { dropped: 0, warned: 0 };
  const queue = createExportQueue(exporter, {
    dropped: (spans) => (counts.dropped += spans),
    log: { warn: () => (counts.warned += 1) },
  });
  return { asked, counts, queue };
}

test("while a receiver hangs one batch is out, the queue stays bounded, and what finds no place is counted", async () => {
  const { asked, counts, queue } = setUp();
  for (let ended = 0; ended < 10_000; ended += 1) queue.onEnd(span);
  expect(asked.map(({ spans }) => spans)).toEqual([512]);
  expect(queue.waiting()).toBe(4_096);
  expect(counts.dropped).toBe(10_000 - 4_096 - 512);
  await queue.shutdown();
  expect(queue.waiting()).toBe(0);
  expect(counts.dropped).toBe(10_000 - 512);
  queue.onEnd(span);
  expect(counts.dropped).toBe(10_000 - 511);
});

test("what no receiver took is counted, and told once in a while only", async () => {
  const { asked, counts, queue } = setUp();
  for (let round = 1; round <= 3; round += 1) {
    queue.onEnd(span);
    const flushed = queue.forceFlush();
    asked.at(-1)?.answer(round === 3 ? ExportResultCode.SUCCESS : ExportResultCode.FAILED);
    await flushed;
  }
  expect(asked.map(({ spans }) => spans)).toEqual([1, 1, 1]);
  expect(counts).toEqual({ dropped: 2, warned: 1 });
});
