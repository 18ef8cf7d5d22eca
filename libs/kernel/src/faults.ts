/**
 * Named crash points, for steps that no wire passes and that a fault test can
 * therefore not hold from outside. Inert unless configured.
 *
 * A setting is a comma-separated list of `name` or `name@N`: the process ends
 * when it reaches that point for the first, or the Nth, time.
 *
 * The one state of a module here: a crash point sits deep in code that must not
 * carry a parameter for it, and a process crashes as a whole.
 */

/** Ends the process at once, without cleaning up. Must not return. */
export type Crash = (name: string) => never;

type Armed = { crash: Crash; remaining: Map<string, number> };

let armed: Armed | undefined;

const entryPattern = /^([a-z0-9]+(?:[.-][a-z0-9]+)*)(?:@([1-9][0-9]{0,8}))?$/;

/**
 * Arms the points that `setting` names; undefined or empty disarms all. Throws
 * a RangeError on a setting that it can't read: a fault test that injects
 * nothing would prove nothing.
 */
export function configureFaults(setting: string | undefined, crash: Crash): void {
  const entries = (setting ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
  const remaining = new Map<string, number>();
  for (const entry of entries) {
    const [, name, count] = entryPattern.exec(entry) ?? [];
    if (name === undefined) throw new RangeError(`not a crash point: ${JSON.stringify(entry)} (name or name@N)`);
    remaining.set(name, Number(count ?? 1));
  }
  armed = remaining.size === 0 ? undefined : { crash, remaining };
}

/** A place where a fault test may end the process. `name` is dotted, by subject: `journal.before-rename`. */
export function crashPoint(name: string): void {
  if (armed === undefined) return;
  const left = armed.remaining.get(name);
  if (left === undefined || left === 0) return;
  armed.remaining.set(name, left - 1);
  if (left === 1) armed.crash(name);
}
