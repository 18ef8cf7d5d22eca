/**
 * What an operator's answer does to deployments of which the agent has another
 * history than the database.
 *
 * D1: no answer takes an agent below a generation that it has journalled (E5).
 * D2: no answer removes what nobody asked to remove.
 * D3: absent is final: a removal that the server wants is sent anew, whosever
 *     side was taken, also one that removes more of what is gone already.
 */
import { adoptGeneration, lockDeployments } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
import type { EnginePorts, LockedCommand } from "./ports.ts";
import { again } from "./requests.ts";
import { apply, changeSet, finish, lockCommands } from "./store.ts";

/** A deployment that the server knows, and what the agent has of it. */
export interface Forked {
  deploymentId: string;
  agentGeneration: number;
  agentDigest: string;
}

/** Why a command ended, or a deployment is held, that another history has overtaken. */
const forked = "HISTORY_FORKED";
/** Why repairs of a deployment stop whose spec only the agent has. */
export const agentCopy = "AGENT_COPY";

/**
 * Settles deployments of one agent. The caller holds the agent's row and has
 * ended its session. `side`: whose history goes on.
 */
export async function settleForks(
  ports: EnginePorts,
  work: Work,
  forks: readonly Forked[],
  how: { side: "AGENT" | "SERVER"; createdBy: string },
): Promise<void> {
  const deployments = await lockDeployments(
    work.tx,
    forks.map((fork) => fork.deploymentId),
  );
  for (const fork of forks.toSorted((a, b) => (a.deploymentId < b.deploymentId ? -1 : 1))) {
    const deployment = deployments.get(fork.deploymentId);
    if (deployment === undefined) continue;
    const open = await lockCommands(work.tx, { openOf: [fork.deploymentId] });
    const owesNothing = deployment.isAbsent && open.length === 0; // but the next removal has to be above (D1)
    const reissued = !owesNothing && (how.side === "SERVER" || deployment.desired === "ABSENT"); // D3
    await endOpen(ports, work, open, reissued);
    if (reissued) {
      const above = Math.max(deployment.generation, fork.agentGeneration); // D1
      await again(ports, work, fork.deploymentId, { createdBy: how.createdBy, above });
    } else await adoptGeneration(work.tx, fork, deployment.isAbsent ? "" : agentCopy);
  }
}

/** The wish of what is open is carried by a newer command, or by nobody. What waits behind it goes first. */
async function endOpen(
  ports: EnginePorts,
  work: Work,
  open: readonly LockedCommand[],
  reissued: boolean,
): Promise<void> {
  const waitingFirst = open.toSorted((a, b) => Number(b.state === "BLOCKED") - Number(a.state === "BLOCKED"));
  const set = changeSet();
  for (const command of waitingFirst) {
    apply(ports, work, { ...command, newerWaits: false }, { kind: "forked", reissued }, set, {
      reason: forked,
      message: "The agent has another history of this deployment; an operator has decided.",
    });
  }
  await finish(ports, work, set);
}
