import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { place, type PlaceableAgent, type PlacedService } from "./placement.ts";

function agent(name: string, more: Partial<PlaceableAgent> = {}): PlaceableAgent {
  return { id: name, name, labels: {}, cordoned: false, running: 0, ...more };
}

function service(name: string, more: Partial<PlacedService> = {}): PlacedService {
  return { name, mode: "replicated", replicas: 1, mostPerAgent: Infinity, constraints: [], ...more };
}

const at = ({ placement }: ReturnType<typeof place>) => Object.fromEntries(placement);

test("services stand together on one agent, the one with most room", () => {
  const agents = [agent("a", { running: 3 }), agent("b", { running: 1 }), agent("c", { running: 2 })];
  expect(at(place([service("web"), service("db")], agents))).toEqual({ b: { web: 1, db: 1 } });
});

test("what is new goes to who is there, though who is away has more room; what an agent has stays", () => {
  const agents = [agent("a", { away: true }), agent("b", { running: 9 })];
  expect(at(place([service("web"), service("db")], agents))).toEqual({ b: { web: 1, db: 1 } });
  expect(at(place([service("web", { replicas: 3 })], agents))).toEqual({ b: { web: 2 }, a: { web: 1 } });
  expect(at(place([service("web")], agents, new Map([["a", { web: 1 }]])))).toEqual({ a: { web: 1 } });
  expect(at(place([service("web")], [agent("a", { away: true })]))).toEqual({ a: { web: 1 } });
});

test("replicas are spread, and the others stay together", () => {
  const agents = [agent("a"), agent("b"), agent("c")];
  expect(at(place([service("web", { replicas: 3 }), service("db")], agents))).toEqual({
    a: { web: 1, db: 1 },
    b: { web: 1 },
    c: { web: 1 },
  });
  expect(at(place([service("web", { replicas: 5 })], agents))).toEqual({ a: { web: 2 }, b: { web: 2 }, c: { web: 1 } });
});

test("a global service is on each agent that may have it", () => {
  const agents = [agent("a", { labels: { ssd: "yes" } }), agent("b"), agent("c", { labels: { ssd: "yes" } })];
  const constraints = [{ subject: "labels.ssd", equal: true, value: "yes" }];
  expect(at(place([service("log", { mode: "global", constraints })], agents))).toEqual({
    a: { log: 1 },
    c: { log: 1 },
  });
});

test("constraints pin by label and by name, and what fits nowhere is said", () => {
  const agents = [agent("a", { labels: { zone: "north" } }), agent("b", { labels: { zone: "south" } })];
  const north = { constraints: [{ subject: "labels.zone", equal: true, value: "north" }] };
  const notA = { constraints: [{ subject: "hostname", equal: false, value: "a" }] };
  const west = { constraints: [{ subject: "labels.zone", equal: true, value: "west" }] };
  const placed = place([service("db", north), service("web", notA), service("job", west)], agents);
  expect(at(placed)).toEqual({ a: { db: 1 }, b: { web: 1 } });
  expect(placed.nowhere).toEqual(["job"]);
});

test("an agent that lacks what a service needs does not get it, and what is lacking is said", () => {
  const agents = [
    agent("a", { capabilities: ["images"] }),
    agent("b", { capabilities: ["images", "volumes"], running: 5 }),
  ];
  const placed = place(
    [
      service("web", { needs: ["images"] }),
      service("db", { needs: ["images", "volumes"] }),
      service("odd", {
        needs: ["volumes", "jobs", "networks"],
        constraints: [{ subject: "hostname", equal: true, value: "b" }],
      }),
      service("log", { mode: "global", needs: ["volumes"] }),
    ],
    agents,
  );
  expect(at(placed)).toEqual({ b: { web: 1, db: 1, log: 1 } }); // together where most of it may be
  expect(placed.nowhere).toEqual(["odd"]);
  expect(placed.lacking).toEqual(new Map([["odd", ["jobs", "networks"]]]));
});

test("an agent that reports less than it did keeps what it has, and gets no more", () => {
  const agents = [agent("a", { capabilities: [] }), agent("b", { capabilities: ["images"] })];
  const before = new Map([["a", { web: 1 }]]);
  const web = (replicas: number) => service("web", { needs: ["images"], replicas });
  expect(at(place([web(1)], agents, before))).toEqual({ a: { web: 1 } });
  expect(at(place([web(3)], agents, before))).toEqual({ a: { web: 1 }, b: { web: 2 } });
});

test("what constraints keep out lacks no capability", () => {
  const constraints = [{ subject: "labels.zone", equal: true, value: "west" }];
  const placed = place([service("web", { needs: ["images"], constraints })], [agent("a")]);
  expect([placed.nowhere, placed.lacking.size]).toEqual([["web"], 0]);
});

test("what was placed stays, though other agents have more room now", () => {
  const agents = [agent("a", { running: 9 }), agent("b")];
  const before = new Map([["a", { web: 1, db: 1 }]]);
  expect(at(place([service("web"), service("db"), service("new")], agents, before))).toEqual({
    a: { web: 1, db: 1, new: 1 },
  });
});

test("no agent gets more of a service than it allows", () => {
  const placed = place([service("web", { replicas: 5, mostPerAgent: 2 })], [agent("a"), agent("b")]);
  expect(at(placed)).toEqual({ a: { web: 2 }, b: { web: 2 } });
  expect(placed.nowhere).toEqual(["web"]);
});

test("a cordoned agent keeps what it has and gets nothing new", () => {
  const agents = [agent("a", { cordoned: true }), agent("b")];
  const before = new Map([["a", { web: 1 }]]);
  expect(at(place([service("web", { replicas: 3 }), service("db")], agents, before))).toEqual({
    a: { web: 1 },
    b: { web: 2, db: 1 },
  });
  const alone = place([service("web", { replicas: 2 })], [agent("a", { cordoned: true })], before);
  expect(at(alone)).toEqual({ a: { web: 1 } });
  expect(alone.nowhere).toEqual(["web"]);
});

test("what runs stays where it is when an agent joins, and when fewer are wanted they go evenly", () => {
  const before = new Map([
    ["a", { web: 3 }],
    ["b", { web: 1 }],
  ]);
  const [a, b, c] = [agent("a"), agent("b"), agent("c")];
  expect(at(place([service("web", { replicas: 4 })], [a, b, c], before))).toEqual({ a: { web: 3 }, b: { web: 1 } });
  expect(at(place([service("web", { replicas: 5 })], [a, b, c], before))).toEqual({
    ...{ a: { web: 3 }, b: { web: 1 }, c: { web: 1 } },
  });
  expect(at(place([service("web", { replicas: 2 })], [a, b, c], before))).toEqual({ a: { web: 1 }, b: { web: 1 } });
});

test("placing again what was placed changes nothing, and every instance has a place where one fits", () => {
  const agents = fc.uniqueArray(fc.record({ name: fc.constantFrom("a", "b", "c", "d"), running: fc.nat(5) }), {
    selector: (one) => one.name,
    minLength: 1,
  });
  const services = fc.uniqueArray(
    fc.record({ name: fc.constantFrom("web", "db", "job", "log"), replicas: fc.nat(6), global: fc.boolean() }),
    { selector: (one) => one.name },
  );
  fc.assert(
    fc.property(agents, services, (someAgents, someServices) => {
      const there = someAgents.map(({ name, running }) => agent(name, { running }));
      const wanted = someServices.map(({ name, replicas, global }) =>
        service(name, { replicas, mode: global ? "global" : "replicated" }),
      );
      const first = place(wanted, there);
      expect(first.nowhere).toEqual([]);
      for (const one of wanted) {
        const counts = [...first.placement.values()].map((counted) => counted[one.name] ?? 0);
        expect(counts.reduce((sum, count) => sum + count, 0)).toBe(one.mode === "global" ? there.length : one.replicas);
      }
      const busier = there.map((one, index) => ({ ...one, running: 9 - index }));
      expect(at(place(wanted, busier, first.placement))).toEqual(at(first));
    }),
  );
});
