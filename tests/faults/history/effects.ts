/** What the checker (checker.ts) asks of the hosts: B, H and I, from their ledgers and the stored generations. */
import { type Facts, generationKey, groupBy, type Violation } from "./facts.ts";

/** B: a generation takes effect once per host, some command wanted it, and a key names one set of commands. */
export function oneEffect({ effects, commands, answered }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "B", subject, message });
  const wanted = new Set([...commands.values()].map((one) => generationKey(one)));
  const made = effects.filter(({ what }) => what === "applied" || what === "removed");
  const twice = [...groupBy(made, (effect) => `${effect.host} ${generationKey(effect)}`).values()].flatMap((all) => {
    const [first] = all;
    if (first === undefined) return [];
    const message = `${generationKey(first)} took effect ${all.length} times`;
    return all.length > 1 ? [violated(first.deployment, message)] : [];
  });
  const unwanted = made
    .filter((effect) => !wanted.has(generationKey(effect)))
    .map((effect) =>
      violated(effect.deployment, `${generationKey(effect)} was ${effect.what}, and no command said so`),
    );
  const ok = answered.filter(({ outcome, what }) => outcome === "ok" && what !== "cancel");
  const split = [...groupBy(ok, ({ key }) => key)].flatMap(([key, all]) => {
    const sets = new Set(
      all.map(({ commands: named }) =>
        named
          .map(({ command }) => command)
          .toSorted()
          .join(" "),
      ),
    );
    return sets.size > 1 ? [violated(key, `its answers name different commands: ${[...sets].join("; ")}`)] : [];
  });
  return [...twice, ...unwanted, ...split];
}

/** H: what a host made of a generation is what is stored as it, that never changes, and it is what the caller asked for. */
export function contentOfGeneration({ effects, specs, rewritten, answered }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "H", subject, message });
  const other = effects.flatMap((effect) => {
    if (effect.what !== "applied" && effect.what !== "adopted") return [];
    const spec = specs.get(generationKey(effect));
    if (spec === undefined || spec.content === effect.content) return [];
    return [violated(effect.deployment, `${generationKey(effect)} is ${spec.content}, and ${effect.content} was made`)];
  });
  const notAsked = answered.flatMap((one) => {
    if (one.what !== "publish" || one.outcome !== "ok" || one.version === "") return [];
    return one.commands.flatMap(({ deployment, generation }) => {
      const spec = specs.get(generationKey({ deployment, generation }));
      if (spec === undefined || spec.versions.includes(one.version)) return [];
      const what = `version ${one.version} was asked for, and ${generationKey(spec)} has ${spec.versions.join(", ")}`;
      return [violated(deployment, what)];
    });
  });
  const changed = rewritten.map((one) =>
    violated(one.deployment, `${generationKey(one)} was changed where it is stored`),
  );
  return [...other, ...notAsked, ...changed];
}

/** I: whatever was removed, a command named that deployment, at that generation, as absent. */
export function onlyNamedRemovals({ effects, commands }: Facts): Violation[] {
  const named = new Set([...commands.values()].filter(({ removal }) => removal).map((one) => generationKey(one)));
  return effects
    .filter((effect) => effect.what === "removed" && !named.has(generationKey(effect)))
    .map((effect) => ({
      invariant: "I" as const,
      subject: effect.deployment,
      message: `${generationKey(effect)} was removed, and no removal named it`,
    }));
}
