/** How far a pull is: what the engine's lines about layers add up to. */

/** What the engine says while it pulls, one line each. */
export interface PullLine {
  id?: string;
  status?: string;
  progressDetail?: { current?: number; total?: number };
  errorDetail?: { message?: string };
  error?: string;
}

/** Bytes so far and in all, of the layers whose size is known: the engine tells it when it begins with one. */
export type PullProgress = { received: number; total: number };

/** Adds lines up; undefined: the line says nothing new about bytes. */
export function pullCounter(): (line: PullLine) => PullProgress | undefined {
  const layers = new Map<string, PullProgress>();
  return ({ id, status = "", progressDetail }) => {
    if (id === undefined) return undefined;
    const before = layers.get(id);
    if (status === "Downloading") {
      const { current = 0, total = 0 } = progressDetail ?? {};
      if (total <= 0) return undefined;
      layers.set(id, { received: Math.min(current, total), total });
    } else if (status === "Download complete" || status === "Pull complete") {
      if (before === undefined || before.received === before.total) return undefined;
      layers.set(id, { ...before, received: before.total });
    } else return undefined; // e.g. how far it is unpacked
    const sum = (of: keyof PullProgress) => [...layers.values()].reduce((whole, each) => whole + each[of], 0);
    return { received: sum("received"), total: sum("total") };
  };
}

/** `12.3 of 45.0 MB`. */
export function sayBytes({ received, total }: PullProgress): string {
  const [unit, size] = total >= 1e9 ? ["GB", 1e9] : total >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  return `${(received / size).toFixed(1)} of ${(total / size).toFixed(1)} ${unit}`;
}
