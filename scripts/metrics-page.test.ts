import { readFile } from "node:fs/promises";
import { expect, test } from "@jest/globals";
import { startServer, until } from "@bowline/testing";
import { listedMetrics, metricsPage, metricsPagePath } from "./metrics-page.ts";

test("docs/operations/metrics.md says what the registry says (else: npm run docs:metrics)", async () => {
  expect(await readFile(metricsPagePath, "utf8")).toBe(metricsPage());
});

test("a server shows each metric of the page and no other, and names follow Prometheus' conventions", async () => {
  const server = await startServer();
  const text = await until(async () => {
    const answer = await fetch(`${server.url}/metrics`, { headers: { connection: "close" } });
    expect(answer.status).toBe(200);
    const body = await answer.text();
    return body.includes("bowline_census_age_seconds ") ? body : undefined;
  });
  const shown = new Set([...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name));
  expect(shown).toEqual(new Set(listedMetrics().map(({ name }) => name)));
  for (const { name, type } of listedMetrics().filter((metric) => metric.name.startsWith("bowline_"))) {
    expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
    expect([name, name.endsWith("_total")]).toEqual([name, type === "counter"]);
    if (type === "histogram") expect(name).toMatch(/_seconds$/);
  }
});
