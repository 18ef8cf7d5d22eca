/** What a server counts, read as Prometheus does. */
import type { TestServer } from "@bowline/testing";

/** The value of one series, with its labels as they are printed; 0 where it was never counted. */
export async function metric(server: Pick<TestServer, "url">, series: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`, { headers: { connection: "close" } })).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${series} `));
  return line === undefined ? 0 : Number(line.slice(series.length + 1));
}
