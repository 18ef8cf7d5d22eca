/** What the rest of the code sees of a trace. */

export interface SpanOptions {
  /** A W3C traceparent of what caused it; empty or wrong: it begins a trace. */
  parent?: string;
  /** `server`: it answers a call. Default: `internal`. */
  kind?: "internal" | "server" | "client";
  /** When it began, ms since 1970; now if unset. */
  at?: number;
  attributes?: Readonly<Record<string, string | number | boolean>>;
}

export interface Span {
  /** For what it causes; empty: nothing is traced, and nothing was before. */
  readonly traceparent: string;
  set(attributes: NonNullable<SpanOptions["attributes"]>): void;
  /** Once. `failure`: the stable reason why it failed. */
  end(failure?: string): void;
}

export interface Traces {
  /** False: spans go nowhere. */
  readonly on: boolean;
  start(name: string, options?: SpanOptions): Span;
  /** A part of something that is traced; where that is not, nothing. */
  part(name: string, options: SpanOptions & { parent: string }): Span;
  /** Spans that wait to be sent. */
  waiting(): number;
  /** Sends what waits, for a bounded time. Never throws. */
  shutdown(): Promise<void>;
}

/** Version 00: trace, span, flags; neither id is all zeros. */
const traceparentPattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** A traceparent as it may be kept and handed on; empty where it is none. */
export function asTraceparent(text: string | null | undefined): string {
  return typeof text === "string" && traceparentPattern.test(text) ? text : "";
}

/** Goes nowhere. What caused it is handed on, so that others may tell their part. */
function silent(parent: string): Span {
  return parent === "" ? noSpan : { traceparent: parent, set: () => undefined, end: () => undefined };
}

export const noSpan: Span = { traceparent: "", set: () => undefined, end: () => undefined };

export const noTraces: Traces = {
  on: false,
  start: (_, options) => silent(asTraceparent(options?.parent)),
  part: (_, { parent }) => silent(parent),
  waiting: () => 0,
  shutdown: async () => undefined,
};
