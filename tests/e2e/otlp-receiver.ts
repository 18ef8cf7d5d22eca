/** A receiver of traces, as a collector is one: OTLP over HTTP, in JSON. */
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { atEnd } from "@bowline/testing";

export interface ReceivedSpan {
  service: string;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  attributes: Record<string, unknown>;
  status?: { code?: number; message?: string };
}

export interface OtlpReceiver {
  url: string;
  spans(): readonly ReceivedSpan[];
  /** Everything that came, as text. */
  text(): string;
  /** Paths that were asked for. */
  paths(): ReadonlySet<string>;
}

type Attributes = { key: string; value: { stringValue?: string; intValue?: number } }[];
interface Body {
  resourceSpans: {
    resource: { attributes: Attributes };
    scopeSpans: { spans: (Omit<ReceivedSpan, "service" | "attributes"> & { attributes: Attributes })[] }[];
  }[];
}

/** `hangs`: it takes requests and never answers. */
export async function startOtlpReceiver(options: { hangs?: boolean } = {}): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const texts: string[] = [];
  const paths = new Set<string>();
  const take = async (request: IncomingMessage): Promise<void> => {
    paths.add(`${request.method} ${request.url} ${request.headers["content-type"]}`);
    let text = "";
    for await (const chunk of request.setEncoding("utf8")) text += String(chunk);
    texts.push(text);
    for (const { resource, scopeSpans } of (JSON.parse(text) as Body).resourceSpans) {
      const service = String(flat(resource.attributes)["service.name"]);
      for (const span of scopeSpans.flatMap((scope) => scope.spans))
        spans.push({ ...span, service, attributes: flat(span.attributes) });
    }
  };
  const server = createServer((request, response) => {
    take(request).then(
      () => {
        if (options.hangs !== true) response.setHeader("content-type", "application/json").end("{}");
      },
      () => response.destroy(), // cut in the middle, or no JSON: no span of it is seen
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans: () => spans,
    text: () => texts.join("\n"),
    paths: () => paths,
  };
}

function flat(attributes: Attributes): Record<string, unknown> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, value.stringValue ?? value.intValue]));
}
