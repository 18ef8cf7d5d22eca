/**
 * The conformance suite of runtimes: what every kind of place has to do. A new
 * runtime is done when this is green.
 *
 *   place.ts       what a kind brings, and the words of the tests
 *   converging.ts  surviving.ts  updating.ts  health.ts  restarting.ts
 *   replacing.ts  forwards.ts  gates.ts
 *   resting.ts     volumes.ts    jobs.ts      logs.ts    exec.ts  ending.ts  refusing.ts
 */
import { afterEach, beforeEach, describe, expect } from "@jest/globals";
import { convergingTests } from "./converging.ts";
import { endingTests } from "./ending.ts";
import { execTests } from "./exec.ts";
import { forwarderTests, forwardTests } from "./forwards.ts";
import { gateTests } from "./gates.ts";
import { healthTests } from "./health.ts";
import { jobTests } from "./jobs.ts";
import { logTests } from "./logs.ts";
import { Subject } from "./place.ts";
import type { Place, RuntimeKind } from "./place.ts";
import { refusingTests } from "./refusing.ts";
import { replacingTests } from "./replacing.ts";
import { restartingTests } from "./restarting.ts";
import { restingTests } from "./resting.ts";
import { survivingTests } from "./surviving.ts";
import type { CrashPoints } from "./surviving.ts";
import { updatingTests } from "./updating.ts";
import { volumeTests } from "./volumes.ts";

/** Describes a kind of runtime with all that it must do. Each test has a place of its own, and leaves nothing there. */
export function describeRuntime(name: string, kind: RuntimeKind, crashPoints: CrashPoints): void {
  describe(`the ${name} runtime`, () => {
    const current = eachInItsPlace(kind);
    describe("converges", () => convergingTests(current));
    describe("survives its agent", () => survivingTests(current, crashPoints));
    describe("updates", () => updatingTests(current));
    describe("replaces", () => replacingTests(current));
    describe("forwards", () => forwardTests(current, crashPoints));
    describe("asks gates", () => gateTests(current));
    describe("knows health", () => healthTests(current));
    describe("starts again", () => restartingTests(current));
    describe("rests", () => restingTests(current));
    describe("keeps volumes", () => volumeTests(current));
    describe("runs jobs", () => jobTests(current));
    describe("keeps logs", () => logTests(current));
    describe("runs programs in instances", () => execTests(current));
    describe("ends all of an instance", () => endingTests(current));
    describe("refuses", () => refusingTests(current));
  });
}

/** The part that depends on how forwarders are run, for another way to do it. */
export function describeForwarders(
  name: string,
  kind: RuntimeKind,
  crashPoints: Pick<CrashPoints, "forwarding">,
): void {
  describe(name, () => forwarderTests(eachInItsPlace(kind), crashPoints));
}

/** Makes a place before each test, and looks after it that nothing is left there. */
function eachInItsPlace(kind: RuntimeKind): () => Subject {
  let subject: Subject | undefined;
  let place: Place | undefined;
  beforeEach(async () => {
    place = await kind.place();
    subject = new Subject(place, await place.open());
  });
  afterEach(async () => {
    try {
      if (subject === undefined || place === undefined) return;
      // Whatever the test left: an ABSENT spec of it leaves nothing.
      subject.generation = 100;
      expect(await subject.absent({ removeVolumes: true })).toEqual({ kind: "succeeded" });
      expect(await place.leftovers()).toEqual([]);
    } finally {
      await subject?.runtime.close({ stopWorkloads: true });
      await place?.remove();
      subject = undefined;
      place = undefined;
    }
  });
  return () => {
    if (subject === undefined) throw new Error("no subject outside of a test");
    return subject;
  };
}
