/** `bowline agent containers`: what else runs on an agent's host. Read-only. */
import {
  type ForeignContainer,
  ForeignContainer_State as State,
  ListForeignContainersResponseSchema,
} from "@bowline/contract/agents";
import type { Command } from "commander";
import { connected, listed, verb } from "../cli.ts";
import type { Cli, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { usage } from "../failure.ts";
import { hint, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, nothing } from "../text.ts";

type Flags = ListFlags & { state?: string[]; name?: string };

const states = Object.keys(State)
  .filter((name) => Number.isNaN(Number(name)) && name !== "STATE_UNSPECIFIED")
  .map((name) => name.toLowerCase());

export function containersCommand(cli: Cli, agent: Command): void {
  connected(
    listed(
      verb(agent, {
        usage: "containers <agent>",
        summary: "List the containers on an agent's host that are not Bowline's",
        examples: [
          "agent containers press-1",
          "agent containers press-1 --state exited --state dead",
          "agent containers press-1 --name shop -o json",
        ],
        more:
          "Asked at the agent, and only read: nothing of the command, the environment or the mounts of a container is told.\n" +
          "The cluster's policy has to ask for it (cluster update --report-foreign-containers), and the host's owner must\n" +
          "not deny it (agent join --deny foreign-containers).",
      }),
    )
      .option(
        "--state <state>",
        `only in this state, may be repeated: ${states.join(", ")}`,
        (text: string, before: string[] | undefined) => [...(before ?? []), text],
      )
      .option("--name <text>", "only those with this in their name"),
  ).action(async (id: string, flags: Flags) => {
    const unknown = flags.state?.find((name) => !states.includes(name));
    if (unknown !== undefined) throw usage(`--state ${unknown}: one of ${states.join(", ")}`);
    const api = await openApi(cli, flags);
    const asked = {
      agent: id,
      states: (flags.state ?? []).map((name) => State[name.toUpperCase() as keyof typeof State]),
      name: flags.name ?? "",
    };
    const response = await allPages(
      flags.limit,
      (page) => api.agents.listForeignContainers({ ...page, ...asked }),
      (page) => page.containers,
    );
    printList(cli, flags, {
      schema: ListForeignContainersResponseSchema,
      response,
      rows: response.containers,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name || row.id.slice(0, 12)],
        ["IMAGE", (row) => row.image],
        ["STATE", (row) => row.status || enumName(State, row.state).toLowerCase()],
        ["PORTS", portsText],
        ["NETWORKS", (row) => row.networks.join(",") || nothing],
        ["OF", ownerText],
      ],
      none: "There are none.",
    });
    if (response.truncated) hint(cli, flags, "There are more than the agent tells.");
    sayMore(cli, flags, response, flags.limit);
  });
}

/** Published ones with where; the same number on IPv4 and IPv6 once. */
function portsText({ ports }: ForeignContainer): string {
  const texts = ports.map(({ container, published, hostAddress, protocol }) => {
    const inside = `${container}/${protocol}`;
    if (published === 0) return inside;
    const everywhere = hostAddress === "0.0.0.0" || hostAddress === "::";
    return `${everywhere ? "" : `${hostAddress}:`}${published}->${inside}`;
  });
  return [...new Set(texts)].join(",") || nothing;
}

function ownerText({ composeProject, composeService, bowlineAgent }: ForeignContainer): string {
  if (bowlineAgent !== "") return "another Bowline agent";
  if (composeProject === "") return nothing;
  return `compose ${composeProject}${composeService === "" ? "" : `/${composeService}`}`;
}
