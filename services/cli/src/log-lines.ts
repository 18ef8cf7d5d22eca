/**
 * Which lines of instances were told already: after a loss the last ones are
 * asked for again.
 *
 * L1: a line is told once: lines of one instance come in order, and what has
 *     the times of lines that were told is what was told.
 * L2: without times nothing can be known again, so nothing is asked for again.
 */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { LogEntry } from "@bowline/contract/instances";

/** Of each instance, after a loss: more than most write while a server restarts. */
const catchUpLines = 1_000;

export interface LogLines {
  /** Whether it is to be told: `told` it was before, `gap` it is, and between it and the last one some may be missing. */
  look(entry: LogEntry): "fresh" | "told" | "gap";
  /** How many lines to ask for next, of an agent or (undefined) of all; undefined: as at first. */
  resume(agent: string | undefined): number | undefined;
}

interface Told {
  agent: string;
  /** Of its newest line, in ms; NaN: its host keeps no times. */
  lastMs: number;
  /** Lines of that very moment. */
  count: number;
  /** While what was asked for again comes: how many of that moment have come, and whether any came that was told. */
  again: { count: number; overlaps: boolean } | undefined;
}

export function createLogLines(): LogLines {
  const instances = new Map<string, Told>();

  function isTold(told: Told, ms: number): boolean {
    if (told.again === undefined) return false;
    if (Number.isNaN(ms)) return told.again.overlaps; // a part of the line before
    const before = ms < told.lastMs || (ms === told.lastMs && told.again.count < told.count);
    if (before) told.again.overlaps = true;
    if (before && ms === told.lastMs) told.again.count += 1;
    return before;
  }

  return {
    look({ instance, time }) {
      const { agent = "", service = "", index = 0, deploymentId = "" } = instance ?? {};
      const key = JSON.stringify([deploymentId, service, index]);
      const ms = time === undefined ? NaN : timestampMs(time);
      const told = instances.get(key);
      if (told === undefined) {
        instances.set(key, { agent, lastMs: ms, count: 1, again: undefined });
        return "fresh";
      }
      if (isTold(told, ms)) return "told"; // L1
      const gap = told.again?.overlaps === false;
      told.again = undefined;
      if (ms === told.lastMs) told.count += 1;
      else if (!(ms < told.lastMs) && !Number.isNaN(ms)) Object.assign(told, { lastMs: ms, count: 1 });
      return gap ? "gap" : "fresh";
    },
    resume(agent) {
      const those = [...instances.values()].filter((told) => agent === undefined || told.agent === agent);
      if (those.length === 0) return undefined;
      if (those.some(({ lastMs }) => Number.isNaN(lastMs))) return 0; // L2
      for (const told of those) told.again = { count: 0, overlaps: false };
      return catchUpLines;
    },
  };
}
