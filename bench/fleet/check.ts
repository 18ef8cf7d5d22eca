/**
 * The server's side of every command against the agents': one result per id, or
 * the run says what is wrong.
 */
import { type Command, Command_State as State } from "@bowline/contract/commands";
import type { Fleet } from "@bowline/testing/fleet";
import type { Api } from "./api.ts";

export interface Check {
  /** False: nobody asked the server, or it had too many commands to list. */
  compared: boolean;
  /** Commands of the cluster. */
  commands: number;
  byState: Record<string, number>;
  /** What must not be, in words; the first `maxViolations` of them. */
  violations: string[];
}

const pageSize = 1_000;
/** A million commands; more are a run of days. */
const maxPages = 1_000;
const maxViolations = 100;

/** Lists all commands of the cluster: the fleet is to be its only agents. */
export async function compare(api: Api, clusterId: string, fleet: Fleet): Promise<Check> {
  const check: Check = { compared: true, commands: 0, byState: {}, violations: [...fleet.ledger.violations] };
  const accounts = fleet.ledger.accounts();
  const seen = new Set<string>();
  const violated = (what: string): void => {
    if (check.violations.length < maxViolations) check.violations.push(what);
  };
  let pageToken = "";
  for (let page = 0; page < maxPages; page += 1) {
    const answer = await api.commands.listCommands({ clusterId, pageSize, pageToken });
    for (const { id, state, attempt } of answer.commands) {
      if (seen.has(id)) continue; // it moved between two pages
      seen.add(id);
      check.commands += 1;
      const name = nameOf(state);
      check.byState[name] = (check.byState[name] ?? 0) + 1;
      const account = accounts.get(id);
      if (state !== State.SUCCEEDED && state !== State.FAILED) continue;
      if (account === undefined) violated(`${id} is ${name}, and no agent has carried it out`);
      else if (account.attempt !== attempt)
        violated(`${id} is ${name} in attempt ${attempt}, and the agent's last was ${account.attempt}`);
      else if (!account.answered) violated(`${id} is ${name}, and the agent has no answer`);
    }
    pageToken = answer.nextPageToken;
    if (pageToken === "") break;
  }
  if (pageToken !== "") return { ...check, compared: false };
  for (const id of accounts.keys())
    if (!seen.has(id)) violated(`${id} was carried out, and the server has no such command`);
  return check;
}

function nameOf(state: Command["state"]): string {
  return Object.entries(State).find(([, value]) => value === state)?.[0] ?? String(state);
}

/** States that a command does not leave. */
const ended: ReadonlySet<string> = new Set(["SUCCEEDED", "FAILED", "CANCELLED", "SUPERSEDED", "EXPIRED", "LOST"]);

/** Commands that have not ended. */
export function openOf(check: Check): number {
  return Object.entries(check.byState).reduce((sum, [state, count]) => sum + (ended.has(state) ? 0 : count), 0);
}
