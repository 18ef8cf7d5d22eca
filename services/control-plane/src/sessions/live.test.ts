/** Which of an agent's sessions a replica takes for the newest. */
import { expect, test } from "@jest/globals";
import { createLiveSessions, type LiveSession } from "./live.ts";

function session(epoch: number) {
  const closed: string[] = [];
  const one = { agentId: "agent_1", epoch, phase: "syncing", close: (reason: string) => void closed.push(reason) };
  return { session: one as unknown as LiveSession, closed };
}

test("whichever of two sessions of one agent is added last, the one with the greater epoch stays and the other is superseded", () => {
  for (const order of ["in order", "the newer one first"] as const) {
    const live = createLiveSessions(() => undefined);
    const [older, newer] = [session(5), session(6)];
    for (const each of order === "in order" ? [older, newer] : [newer, older]) live.add(each.session);
    expect([older.closed, newer.closed]).toEqual([["SUPERSEDED"], []]);
    expect(live.of("agent_1")).toBe(newer.session);
    live.remove(older.session);
    expect(live.of("agent_1")).toBe(newer.session);
  }
});
