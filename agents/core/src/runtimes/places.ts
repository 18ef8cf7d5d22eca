/**
 * Which instance stands for one place of a deployment: a workload's name and an index. While one takes another's place
 * there are two.
 */
import type { Held, Member } from "./members.ts";

type Placed<M extends Member> = Pick<Held<M>, "slots" | "isCurrent">;

function allAt<M extends Member>(held: Placed<M>, workload: string, index: number): M[] {
  return [...held.slots.values()].filter((one) => one.definition.index === index && one.workload.name === workload);
}

/** The one of the last good generation; one that is tried, where there is none. */
export function memberAt<M extends Member>(held: Placed<M>, workload: string, index: number): M | undefined {
  const all = allAt(held, workload, index);
  return all.find((one) => held.isCurrent(one)) ?? all[0];
}

/** The one that whoever asks for this place now means: once the old one ends, the one that takes its place. */
export function answering<M extends Member>(held: Placed<M>, workload: string, index: number): M | undefined {
  const stands = memberAt(held, workload, index);
  if (stands === undefined || !over.includes(stands.phase().kind)) return stands;
  return allAt(held, workload, index).find((one) => one !== stands && one.phase().kind !== "idle") ?? stands;
}

/** What does not run any more, or is about to. */
const over: readonly string[] = ["idle", "stopping", "exited"];

/** For each place the one that answers, by workload and index. */
export function allAnswering<M extends Member>(held: Placed<M>): M[] {
  const found = new Set<M>();
  for (const { workload, definition } of held.slots.values()) {
    const one = answering(held, workload.name, definition.index);
    if (one !== undefined) found.add(one);
  }
  return [...found].toSorted((a, b) =>
    a.workload.name === b.workload.name
      ? a.definition.index - b.definition.index
      : a.workload.name < b.workload.name
        ? -1
        : 1,
  );
}
