/** The checker: it believes a good history, and finds what is wrong in each that is not. */
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { check, evidence, invariants } from "./checker.ts";
import type { Effect, Entry, InvariantName, Step } from "./events.ts";
import { goodHistory } from "./good-history.ts";

type Of<Kind extends Entry["kind"]> = Extract<Entry, { kind: Kind }>;

const found = (entries: readonly Entry[]): InvariantName[] => [
  ...new Set(check(entries).map(({ invariant }) => invariant)),
];

/** The history with every entry of that kind that matches changed, or left out. */
function with_<Kind extends Entry["kind"]>(
  kind: Kind,
  which: (entry: Of<Kind>) => boolean,
  change?: (entry: Of<Kind>) => Partial<Of<Kind>>,
): Entry[] {
  let met = 0;
  const entries = goodHistory().flatMap((entry): Entry[] => {
    if (entry.kind !== kind || !which(entry as Of<Kind>)) return [entry];
    met += 1;
    return change === undefined ? [] : [{ ...entry, ...change(entry as Of<Kind>) }];
  });
  expect(met).toBeGreaterThan(0);
  return entries;
}

const step = (command: string, to: Step["to"]) => (one: Step) => one.command === command && one.to === to;
const effect = (what: Effect["what"], deployment: string, generation: number) => (one: Effect) =>
  one.what === what && one.deployment === deployment && one.generation === generation;
const first = <Kind extends Entry["kind"]>(kind: Kind): Of<Kind> =>
  goodHistory().find((entry) => entry.kind === kind) as Of<Kind>;
const plus = (...more: Entry[]): Entry[] => [...goodHistory(), ...more];
const late = { at: 99_000 };

test("a history in which all is well has no violation, and could have violated everything but E", () => {
  expect(check(goodHistory())).toEqual([]);
  expect([...evidence(goodHistory())].join("")).toBe("ABCDFGHI");
  expect(Object.keys(invariants).join("")).toBe("ABCDEFGHI");
});

test.each<[InvariantName, string, Entry[]]>([
  ["A", "an accepted command that is not known any more", with_("command", ({ command }) => command === "c4")],
  [
    "A",
    "a command that never ended",
    with_(
      "command",
      ({ command }) => command === "c4",
      () => ({ state: "RUNNING" }),
    ),
  ],
  ["A", "a success that nobody did", with_("effect", effect("applied", "d2", 1))],
  ["B", "a generation that took effect twice", plus({ ...first("effect"), ...late, what: "applied" })],
  ["B", "an effect that no command wanted", plus({ ...first("effect"), ...late, what: "applied", generation: 9 })],
  [
    "B",
    "a key that is answered with other commands the second time",
    plus({ ...first("answered"), commands: [{ command: "c4", deployment: "d2", generation: 1 }], version: "" }),
  ],
  [
    "C",
    "a command in flight before the one ahead has ended",
    with_("step", step("c1", "SUCCEEDED"), ({ number }) => ({ number: number + 3.5 })),
  ],
  [
    "C",
    "two that wait for one deployment",
    plus({ ...first("step"), number: 5.5, transaction: "t", command: "c9", generation: 9, to: "BLOCKED" }),
  ],
  ["C", "a converge that begins before the other one ended", with_("effect", effect("ended", "d1", 1))],
  [
    "C",
    "an older generation after a newer one",
    with_("effect", effect("applied", "d1", 2), () => ({ generation: 5 })),
  ],
  [
    "D",
    "a step out of a terminal state",
    plus({ ...first("step"), number: 900, transaction: "t", from: "SUCCEEDED", to: "READY" }),
  ],
  [
    "D",
    "an outcome that is recorded again, otherwise",
    plus({ ...first("step"), number: 900, transaction: "t", from: "SUCCEEDED", to: "SUCCEEDED", reason: "OTHER" }),
  ],
  ["D", "a watch that is told of two ends", plus({ ...first("watched"), ...late, state: "FAILED" })],
  [
    "D",
    "a watch that is told another end than there is",
    with_(
      "watched",
      ({ command, state }) => command === "c4" && state === "SUCCEEDED",
      () => ({ state: "FAILED" }),
    ),
  ],
  ["E", "an attempt that grows without a claim", with_("step", step("c4", "RUNNING"), () => ({ attempt: 2 }))],
  ["E", "a result from an epoch that is over", with_("step", step("c4", "SUCCEEDED"), () => ({ sessionEpoch: 2 }))],
  [
    "E",
    "a claim for a session that has ended",
    with_("step", step("c4", "ASSIGNED"), () => ({ sessionState: "ENDED" })),
  ],
  [
    "E",
    "a stale word that was believed",
    [
      ...with_(
        "command",
        ({ command }) => command === "c4",
        () => ({ reason: "STALE" }),
      ),
      { kind: "stale", command: "c4", attempt: 1, mark: "STALE", ...late },
    ],
  ],
  [
    "F",
    "a recovery that took too long",
    with_(
      "waited",
      () => true,
      () => ({ tookMs: 2_000 }),
    ),
  ],
  [
    "F",
    "a recovery that never came",
    with_(
      "waited",
      () => true,
      () => ({ tookMs: null }),
    ),
  ],
  ["G", "a cancel that ends nothing", with_("step", step("c3", "CANCELLED"))],
  ["G", "a cancel that ends too late", with_("step", step("c3", "CANCELLED"), ({ at }) => ({ at: at + 6_000 }))],
  ["G", "something done after it was CANCELLED", plus({ ...first("effect"), ...late, what: "applied", generation: 3 })],
  ["H", "another content under the same number", with_("effect", effect("applied", "d2", 1), () => ({ content: "x" }))],
  ["H", "a stored generation that was changed", plus({ kind: "rewritten", deployment: "d1", generation: 1, ...late })],
  [
    "H",
    "another version than the one that was published",
    with_(
      "spec",
      ({ deployment }) => deployment === "d2",
      () => ({ versions: ["v7"] }),
    ),
  ],
  [
    "I",
    "a removal that nobody named",
    with_(
      "command",
      ({ command }) => command === "c5",
      () => ({ removal: false }),
    ),
  ],
])("%s: %s is found", (invariant, _, entries) => {
  expect(found(entries)).toContain(invariant);
});

test("what the documentation says may happen is forgiven, of that one only", () => {
  const lost = with_("command", ({ command }) => command === "c4" || command === "c5");
  const forgiven = { kind: "forgiven", invariant: "A", why: "its host died", ...late } as const;
  const subjects = check([...lost, { ...forgiven, subject: "c4" }]).map(({ invariant, subject }) => [
    invariant,
    subject,
  ]);
  expect(subjects).toContainEqual(["A", "c5"]);
  expect(subjects).not.toContainEqual(["A", "c4"]);
});

/** Ways to spoil any history: each makes one entry say what cannot be. */
const spoils: readonly { name: string; kind: Entry["kind"]; spoil: (entry: never) => Entry[] }[] = [
  { name: "forget a command", kind: "command", spoil: () => [] },
  { name: "leave it open", kind: "command", spoil: (one: Of<"command">) => [{ ...one, state: "ASSIGNED" }] },
  {
    name: "repeat an effect",
    kind: "effect",
    spoil: (one: Of<"effect">) => [one, { ...one, what: "applied" }, { ...one, what: "applied" }],
  },
  {
    name: "make something else",
    kind: "effect",
    spoil: (one: Of<"effect">) => [one, { ...one, what: "adopted", content: "x" }],
  },
  {
    name: "remove without a word",
    kind: "effect",
    spoil: (one: Of<"effect">) => [one, { ...one, what: "removed", generation: 77 }],
  },
  {
    name: "lose an attempt",
    kind: "step",
    spoil: (one: Of<"step">) => [{ ...one, from: "RUNNING", attempt: one.attemptBefore - 1 }],
  },
  { name: "wait in vain", kind: "waited", spoil: (one: Of<"waited">) => [{ ...one, tookMs: null }] },
  { name: "rewrite a generation", kind: "spec", spoil: (one: Of<"spec">) => [one, { ...one, kind: "rewritten" }] },
];

test("a good history with any one entry spoiled is never believed", () => {
  const good = goodHistory();
  fc.assert(
    fc.property(fc.constantFrom(...spoils), fc.nat(), ({ kind, spoil }, chosen) => {
      const places = good.flatMap((entry, at) => (entry.kind === kind ? [at] : []));
      const at = places[chosen % places.length] ?? 0;
      const spoiled = good.flatMap((entry, index) => (index === at ? spoil(entry as never) : [entry]));
      expect(check(spoiled)).not.toEqual([]);
    }),
    { numRuns: 300 },
  );
});
