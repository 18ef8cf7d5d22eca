/** deploy/prometheus/alerts.yaml against the metrics that a server has, and against its page. */
import { readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { parse } from "yaml";
import { misuseKinds } from "../services/control-plane/src/platform/metrics.ts";
import { listedMetrics } from "./metrics-page.ts";

interface Rule {
  alert: string;
  expr: string;
  for: string;
  labels: { severity: string };
  annotations: { summary: string; runbook: string };
}

const read = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");
const file = parse(read("deploy/prometheus/alerts.yaml")) as { groups: { name: string; rules: Rule[] }[] };
const rules = file.groups.flatMap((group) => group.rules);
const page = read("docs/operations/alerts.md");
const metrics = new Map(listedMetrics().map((metric) => [metric.name, metric]));

/** The metric that a series is of: a histogram has three. */
function metricOf(series: string) {
  const histogram = metrics.get(series.replace(/_(bucket|sum|count)$/, ""));
  return metrics.get(series) ?? (histogram?.type === "histogram" ? histogram : undefined);
}

/** Series with their labels: `name{a="x",b=~"y"}` or bare. */
function seriesOf(expr: string): { name: string; labels: [name: string, value: string][] }[] {
  return [...expr.matchAll(/\b((?:bowline|nodejs|process)_\w+)(?:\{([^}]*)\})?/g)].map(
    ([, name = "", inside = ""]) => ({
      name,
      labels: [...inside.matchAll(/(\w+)(?:=~|!=|=)"([^"]*)"/g)].map(([, label = "", value = ""]) => [label, value]),
    }),
  );
}

test.each(rules.map((rule) => [rule.alert, rule] as const))(
  "%s asks for metrics and labels that a server has, and says how urgent it is",
  (name, rule) => {
    const series = seriesOf(rule.expr);
    if (name !== "BowlineDown") expect(series.length).toBeGreaterThan(0);
    for (const one of series) {
      const metric = metricOf(one.name);
      expect([one.name, metric?.name]).toEqual([one.name, expect.any(String)]);
      for (const [label] of one.labels) expect([one.name, ...(metric?.labels ?? [])]).toContain(label);
    }
    // What it adds up by is a label of what it adds up, or Prometheus' own.
    const labels = new Set(["le", "instance", ...series.flatMap((one) => metricOf(one.name)?.labels ?? [])]);
    for (const [, by = ""] of rule.expr.matchAll(/\bby \(([^)]*)\)/g))
      for (const label of by.split(",").map((text) => text.trim())) expect(labels).toContain(label);
    expect(rule.for).toMatch(/^\d+[mh]$/);
    expect(["page", "ticket"]).toContain(rule.labels.severity);
    expect(rule.annotations.runbook).toBe(`docs/operations/alerts.md#${name.toLowerCase()}`);
    expect(rule.expr.split("(")).toHaveLength(rule.expr.split(")").length);
  },
);

test("each alert has its section, with what it means, whom it hurts, where to look and what to do; no section is left over", () => {
  expect(new Set(rules.map((rule) => rule.alert)).size).toBe(rules.length);
  const sections = [...page.matchAll(/^## (\w+)\n([\s\S]*?)(?=^## |$(?![\s\S]))/gm)];
  expect(sections.map(([, name]) => name)).toEqual(rules.map((rule) => rule.alert));
  for (const [index, [, name, text = ""]] of sections.entries()) {
    const rule = rules[index];
    expect([name, text]).toEqual([name, expect.stringContaining(rule?.annotations.summary ?? "")]);
    expect([name, text]).toEqual([name, expect.stringContaining(`\`${rule?.labels.severity}\``)]);
    for (const part of ["Means", "Hurts", "Look at", "Do"])
      expect([name, text]).toEqual([name, expect.stringMatching(new RegExp(`^- \\*\\*${part}:\\*\\* \\S`, "m"))]);
  }
});

test("what the page calls an alert, a metric or a kind of misuse exists", () => {
  const known = new Set(rules.map((rule) => rule.alert));
  for (const [name] of page.matchAll(/\bBowline[A-Z]\w+/g)) expect(known).toContain(name);
  for (const [, name = ""] of page.matchAll(/`((?:bowline|nodejs|process)_\w+)`/g))
    expect([name, metricOf(name)?.name]).toEqual([name, name]);
  const misuse = rules.find((rule) => rule.alert === "BowlineMisuse");
  expect(misuse).toBeDefined();
  for (const kind of ["ASSERTION_REPLAYED", "AGENT_REVOKED", "AGENT_KEY_REPLACED", "FLOODING"]) {
    expect(misuseKinds).toContain(kind);
    expect(page).toContain(kind);
  }
});
