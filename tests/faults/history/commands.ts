/** What the checker (checker.ts) asks of the engine: A, C, D, E and G, from steps, answers and what a watch was told. */
import { type Facts, generationKey, groupBy, isInFlight, isTerminal, type Violation } from "./facts.ts";

/** A: what was answered with success exists and has ended, and what succeeded was done. */
export function acceptedIsNotLost({ answered, commands, effects, ledgers }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "A", subject, message });
  const accepted = answered.flatMap((one) => (one.outcome === "ok" ? one.commands.map(({ command }) => command) : []));
  const gone = [...new Set(accepted)].filter((command) => !commands.has(command));
  const done = new Set(
    effects.filter(({ what }) => what === "applied" || what === "adopted").map((effect) => generationKey(effect)),
  );
  return [
    ...gone.map((command) => violated(command, "it was accepted, and is not known any more")),
    ...[...commands.values()].flatMap((one) => {
      if (!isTerminal(one.state)) return [violated(one.command, `it never ended: ${one.state} at the end`)];
      if (one.state !== "SUCCEEDED" || one.removal || !ledgers.has(one.agent) || done.has(generationKey(one)))
        return [];
      return [violated(one.command, `it is said to have succeeded, and nobody did ${generationKey(one)}`)];
    }),
  ];
}

/** C: one open command per deployment that is not BLOCKED, one BLOCKED; and none starts before an older one has ended. */
export function oneInFlight({ steps, effects }: Facts): Violation[] {
  const violations: Violation[] = [];
  for (const [deployment, all] of groupBy(steps, (step) => step.deployment)) {
    const open = new Map<string, (typeof all)[number]>();
    for (const [at, step] of all.entries()) {
      if (isTerminal(step.to)) open.delete(step.command);
      else open.set(step.command, step);
      if (all[at + 1]?.transaction === step.transaction) continue; // Nobody sees the middle of a transaction.
      const blocked = [...open.values()].filter(({ to }) => to === "BLOCKED");
      const others = [...open.values()].filter(({ to }) => to !== "BLOCKED");
      const older = [...open.values()].some(({ generation }) => generation < step.generation);
      const message =
        others.length > 1
          ? `${others.length} commands are open at once: ${others.map((one) => `${one.command} ${one.to}`).join(", ")}`
          : blocked.length > 1
            ? `${blocked.length} commands are BLOCKED at once`
            : isInFlight(step.to) && older
              ? `${step.command} is ${step.to} before an older generation has ended`
              : undefined;
      if (message !== undefined) violations.push({ invariant: "C", subject: deployment, message });
    }
  }
  return [...violations, ...oneAtATime(effects)];
}

/** C, as the hosts saw it: one converge of a deployment at a time, and never an older generation after a newer one. */
function oneAtATime(effects: Facts["effects"]): Violation[] {
  const violations: Violation[] = [];
  for (const all of groupBy(effects, ({ host, deployment }) => `${host} ${deployment}`).values()) {
    const under = new Map<number, string>();
    let highest = 0;
    for (const effect of all) {
      const { deployment, generation, pid, what } = effect;
      const violated = (message: string) => violations.push({ invariant: "C", subject: deployment, message });
      const before = under.get(pid);
      if (what === "begun" && before !== undefined) violated(`${generationKey(effect)} began before ${before} ended`);
      if (what === "begun") under.set(pid, generationKey(effect));
      if (what === "ended") under.delete(pid);
      if (what !== "applied" && what !== "removed") continue;
      if (generation < highest) violated(`generation ${generation} was ${what} after generation ${highest}`);
      highest = Math.max(highest, generation);
    }
  }
  return violations;
}

/** D: no step leads out of a terminal state, its outcome stays as recorded, and no watch was told of another one. */
export function terminalStays({ steps, watched, commands }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "D", subject, message });
  const recorded = new Map<string, string>();
  const left = steps.flatMap((step) => {
    const { command, from, to } = step;
    const outcome = `${to} of attempt ${step.outcomeAttempt} (${step.reason})`;
    const before = recorded.get(command);
    if (isTerminal(to)) recorded.set(command, outcome);
    if (from !== "" && isTerminal(from) && to !== from) return [violated(command, `it went from ${from} to ${to}`)];
    return before === undefined || before === outcome ? [] : [violated(command, `${before} became ${outcome}`)];
  });
  const told = new Map<string, string>();
  const toldOtherwise = watched.flatMap(({ command, state }) => {
    const before = told.get(command);
    if (isTerminal(state)) told.set(command, state);
    return before === undefined || before === state
      ? []
      : [violated(command, `a watch was told ${before}, and then ${state}`)];
  });
  const standOtherwise = [...told].flatMap(([command, state]) => {
    const now = commands.get(command)?.state;
    return now === undefined || now === state ? [] : [violated(command, `a watch was told ${state}, and it is ${now}`)];
  });
  return [...left, ...toldOtherwise, ...standOtherwise];
}

/** E: attempts grow only by a claim; the agent's word counts only from its open session; a stale word leaves no trace. */
export function staleChangesNothing({ steps, stale, commands }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "E", subject, message });
  const unfenced = steps.flatMap((step) => {
    const { command, from, to, attempt, attemptBefore } = step;
    const claimed = from === "READY" && to === "ASSIGNED";
    const found: Violation[] = [];
    if (from !== "" && attempt !== attemptBefore + (claimed ? 1 : 0))
      found.push(violated(command, `its attempt went from ${attemptBefore} to ${attempt} by ${from} to ${to}`));
    const byWord = from !== to && (to === "RUNNING" || to === "SUCCEEDED" || claimed);
    const bound = claimed || to === "RUNNING" ? step.epoch : step.epochBefore;
    if (byWord && step.sessionState === "ENDED")
      found.push(violated(command, `it became ${to} while its agent had no session`));
    else if (byWord && bound !== step.sessionEpoch)
      found.push(violated(command, `it became ${to} by epoch ${bound}, while its agent's was ${step.sessionEpoch}`));
    return found;
  });
  const marks = new Map(stale.map(({ command, mark }) => [`${command} ${mark}`, mark]));
  const heard = [...steps, ...commands.values()].filter(({ command, reason }) => marks.has(`${command} ${reason}`));
  const believed = new Set(heard.map(({ command, reason }) => violatedBy(command, reason)));
  return [...unfenced, ...[...believed].map((text) => violated(text.split(" ")[0] ?? "", text))];
}

const violatedBy = (command: string, mark: string): string => `${command} took a stale word: ${mark}`;

/** G: what was cancelled ends within its bound, and nothing of it is done once it is CANCELLED. */
export function cancelsConverge({ answered, steps, commands, effects }: Facts): Violation[] {
  const violated = (subject: string, message: string): Violation => ({ invariant: "G", subject, message });
  const endedAt = new Map(steps.filter(({ to }) => isTerminal(to)).map(({ command, at }) => [command, at]));
  const late = answered.flatMap((one) => {
    if (one.what !== "cancel" || one.outcome !== "ok") return [];
    return one.commands.flatMap(({ command }) => {
      const at = endedAt.get(command);
      if (at === undefined) return [violated(command, "it was cancelled, and never ended")];
      const tookMs = at - one.at;
      return tookMs <= one.boundMs
        ? []
        : [violated(command, `it ended ${Math.round(tookMs)} ms after its cancel, ${one.boundMs} were allowed`)];
    });
  });
  const doneAfter = steps.flatMap(({ command, to, from, at, ...of }) => {
    if (to !== "CANCELLED" || from === to) return [];
    const again = [...commands.values()].some(
      (one) => one.command !== command && generationKey(one) === generationKey(of),
    );
    const later = effects.some(
      (effect) => effect.what === "applied" && effect.at > at && generationKey(effect) === generationKey(of),
    );
    return later && !again ? [violated(command, "it was done after it was CANCELLED")] : [];
  });
  return [...late, ...doneAfter];
}
