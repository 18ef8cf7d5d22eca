import { expect, test } from "@jest/globals";
import { parseCompose } from "@bowline/compose";
import type { Deployment } from "@bowline/contract/deployments";
import { colouredName, innerName, serviceOfWorkload, toggled, workloadName } from "./colours.ts";
import { compileTarget } from "./compile.ts";
import { canaries, doubledServices, sideBySide, type Sides } from "./sides.ts";

function modelOf(text: string) {
  const parsed = parseCompose({ files: [{ name: "compose.yaml", text }], name: "shop" });
  if (parsed.stack === undefined) throw new Error(JSON.stringify(parsed));
  return parsed.stack;
}

const shop = (image: string, more = ""): string => `
services:
  web: { image: ${image}, ports: ["8080:80"], depends_on: [db] }
  db: { image: "db:1", volumes: ["data:/data"] }
${more}
volumes: { data: {} }
`;

const plain = { stamps: {}, secretVersions: {} };
const compiled = (text: string, counts: Record<string, number>, colours: Record<string, "green">) =>
  compileTarget(modelOf(text), counts, {
    ...{ ...plain, stack: "shop", desired: "RUNNING", runTimeoutMs: 1000, colours },
    ...{ forwards: ({ ports }) => ports.length > 0, update: () => undefined },
  });

const counts = { web: 4, db: 1 };
const sides = (phase: Sides["phase"], more: Partial<Sides> = {}): Deployment =>
  sideBySide({
    ...{ phase, doubled: ["web"], live: {}, coming: { web: "green" }, canaries: {} },
    base: compiled(shop("web:1"), counts, {}),
    next: compiled(shop("web:2"), counts, { web: "green" }),
    ...more,
  }) as Deployment;

const shown = ({ workloads, forwards }: Deployment) => ({
  workloads: workloads.map(({ name, image, count }) => `${name} ${image} ${count}`),
  forwards: forwards.map(({ published, backends }) => [published, ...backends.map((b) => `${b.workload}*${b.weight}`)]),
});

test("while it is prepared all that is new runs beside what was, and ports lead to what was", () => {
  expect(shown(sides("PREPARING"))).toEqual({
    workloads: ["db db:1 1", "web--green web:2 4", "web web:1 4"],
    forwards: [[8080, "web*1"]],
  });
});

test("a switch changes where ports lead, and nothing else", () => {
  const { forwards, ...switched } = sides("SWITCHING");
  expect(shown({ ...switched, forwards } as Deployment).forwards).toEqual([[8080, "web--green*1"]]);
  const { forwards: _before, ...prepared } = sides("PREPARING");
  expect(switched).toEqual(prepared);
});

test("what was keeps its very definition beside what is new", () => {
  const before = compiled(shop("web:1"), counts, {}).workloads?.find(({ name }) => name === "web");
  expect(sides("PREPARING").workloads.find(({ name }) => name === "web")).toEqual(before);
});

test("either side keeps the config and the value of the secret that it was made with", () => {
  const text = (image: string, content: string): string => `
services: { web: { image: ${image}, secrets: [key], configs: [site] } }
secrets: { key: { external: true } }
configs: { site: { content: ${content} } }`;
  const version = (spec: string, colours: Record<string, "green">, value: string) =>
    compileTarget(
      modelOf(spec),
      { web: 1 },
      {
        ...{
          stamps: {},
          secretVersions: { key: value },
          stack: "shop",
          desired: "RUNNING",
          runTimeoutMs: 1000,
          colours,
        },
        ...{ forwards: () => false, update: () => undefined },
      },
    );
  const both = sides("PREPARING", {
    base: version(text("web:1", "old"), {}, "secret_1/1"),
    next: version(text("web:2", "new"), { web: "green" }, "secret_1/2"),
  });
  const has = (workload: string) => {
    const names = both.workloads.find(({ name }) => name === workload)?.mounts.map(({ source }) => source.value);
    const files = both.files.filter(({ name }) => names?.includes(name));
    return files.map(({ secret, content }) => both.secretVersions[secret] ?? Buffer.from(content ?? []).toString());
  };
  expect(has("web").toSorted()).toEqual(["old", "secret_1/1"]);
  expect(has("web--green").toSorted()).toEqual(["new", "secret_1/2"]);
});

test("canaries get connections by their numbers; an agent without one is as it was", () => {
  expect(shown(sides("CANARIES", { canaries: { web: 1 } }))).toEqual({
    workloads: ["db db:1 1", "web--green web:2 1", "web web:1 4"],
    forwards: [[8080, "web*4", "web--green*1"]],
  });
  expect(shown(sides("CANARIES"))).toEqual({
    workloads: ["db db:1 1", "web web:1 4"],
    forwards: [[8080, "web*1"]],
  });
});

test("a port that moves to another service leads to the old one until the switch", () => {
  const moved = `
services:
  web: { image: "web:2", depends_on: [db] }
  front: { image: "front:1", ports: ["8080:80"] }
  db: { image: "db:1", volumes: ["data:/data"] }
volumes: { data: {} }`;
  const next = compiled(moved, { ...counts, front: 1 }, { web: "green" });
  expect(shown(sides("PREPARING", { next })).forwards).toEqual([[8080, "web*1"]]);
  expect(shown(sides("SWITCHING", { next })).forwards).toEqual([[8080, "front*1"]]);
});

test("only what changed and does not write to what outlives it runs side by side; a changed published port alone does not double it", () => {
  const version = (text: string) => ({ model: modelOf(text), options: plain });
  const was = version(shop("web:1", "  api: { image: 'api:1' }"));
  expect(doubledServices(was, version(shop("web:2", "  api: { image: 'api:1' }")))).toEqual(["web"]);
  expect(doubledServices(was, version(shop("web:1", "  api: { image: 'api:1', deploy: { replicas: 3 } }")))).toEqual(
    [],
  );
  expect(doubledServices(was, version(shop("web:1", "  api: { image: 'api:2' }").replace("db:1", "db:2")))).toEqual([
    "api",
  ]);
  expect(doubledServices(was, version(shop("web:1").replace("8080:80", "9090:80")))).toEqual([]);
  const stamped = { ...was, options: { ...plain, stamps: { api: "again" } } };
  expect(doubledServices(was, stamped)).toEqual(["api"]);
  expect(doubledServices(was, { ...was, options: { ...plain, secretVersions: { unused: "1/2" } } })).toEqual([]);
});

test("canaries are spread one each in turn, and never more than there is room for", () => {
  const wanted = new Map<string, Record<string, number>>([
    ["a", { web: 2 }],
    ["b", { web: 1 }],
    ["c", {}],
  ]);
  expect([...canaries(1, wanted, "web")]).toEqual([["a", 1]]);
  expect([...canaries(9, wanted, "web")]).toEqual([
    ["a", 2],
    ["b", 1],
  ]);
  expect([...canaries(2, wanted, "web", new Set(["a"]))]).toEqual([
    ["b", 1],
    ["a", 1],
  ]);
});

test("colours tell two workloads of one service apart, and no service's name can be taken for a colour", () => {
  expect([workloadName("web", {}), workloadName("web", { web: "green" })]).toEqual(["web", "web--green"]);
  expect(innerName("web--green")).not.toBe("web--green");
  const long = "a".repeat(63);
  expect(colouredName(long, long, { [long]: "green" })).toHaveLength(63);
  expect(serviceOfWorkload("web--green", ["db", "web"])).toBe("web");
  expect(serviceOfWorkload("other", ["db", "web"])).toBeUndefined();
  expect(toggled({ db: "green" }, ["web", "db"])).toEqual({ web: "green" });
});
