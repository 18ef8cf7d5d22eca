/**
 * Named crash points, for steps that no wire passes and that a fault test can
 * therefore not hold from outside. Inert unless configured.
 *
 * A setting is a comma-separated list of `name` or `name@N`: the process ends
 * when it reaches that point for the first, or the Nth, time. `pause:name@N`:
 * it stands still there, until the test lets it go on.
 *
 * The one state of a module here: a crash point sits deep in code that must not
 * carry a parameter for it, and a process crashes as a whole.
 */

/** Ends the process at once, without cleaning up. Must not return. */
export type Crash = (name: string) => never;

/** Returns when the test lets the process go on. */
export type Pause = (name: string) => void;

type Act = { pauses: boolean; remaining: number };
type Armed = { crash: Crash; pause: Pause; acts: Map<string, Act> };

let armed: Armed | undefined;

const entryPattern = /^(pause:)?([a-z0-9]+(?:[.-][a-z0-9]+)*)(?:@([1-9][0-9]{0,8}))?$/;

/**
 * Arms the points that `setting` names; undefined or empty disarms all. Throws
 * a RangeError on a setting that it can't read: a fault test that injects
 * nothing would prove nothing.
 */
export function configureFaults(setting: string | undefined, crash: Crash, pause?: Pause): void {
  const entries = (setting ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
  const acts = new Map<string, Act>();
  for (const entry of entries) {
    const [, kind, name, count] = entryPattern.exec(entry) ?? [];
    if (name === undefined || (kind !== undefined && pause === undefined)) {
      const kinds = pause === undefined ? "name or name@N" : "name, name@N or pause:name@N";
      throw new RangeError(`not a crash point: ${JSON.stringify(entry)} (${kinds})`);
    }
    acts.set(name, { pauses: kind !== undefined, remaining: Number(count ?? 1) });
  }
  armed = acts.size === 0 ? undefined : { crash, pause: pause ?? (() => undefined), acts };
}

/** A place where a fault test may end or pause the process. `name` is dotted, by subject: `journal.before-rename`. */
export function crashPoint(name: string): void {
  const act = armed?.acts.get(name);
  if (armed === undefined || act === undefined || act.remaining === 0) return;
  act.remaining -= 1;
  if (act.remaining > 0) return;
  if (act.pauses) armed.pause(name);
  else armed.crash(name);
}
