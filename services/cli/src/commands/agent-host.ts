/** `bowline agent rotate-key`: about the agent of this host, whose program does it. */
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { become, forwarded, programs } from "../programs.ts";

type Runtime = "local" | "docker" | "kubernetes";

/** What the agent here runs things with: which program is asked. */
export function runtimeOption(): Option {
  return new Option("--runtime <runtime>", "what the agent runs things with")
    .choices(["local", "docker", "kubernetes"])
    .default("local");
}

export function rotateKeyCommand(cli: Cli, agent: Command): void {
  const rotate = verb(agent, {
    usage: "rotate-key",
    summary: "Give the agent of this host new keys, while it runs",
    examples: ["agent rotate-key", "agent rotate-key --data-dir /var/lib/bowline --wait 120s"],
    more:
      "It asks the agent that runs on the data folder and waits until the server has the new keys; the ones before open\n" +
      "nothing any more. Where the agent does not run it makes them as soon as it is connected. For a schedule start the\n" +
      "agent with --key-max-age. If a key got into other hands, use `token create --rekey`: whoever has it can rotate too.",
  })
    .addOption(runtimeOption())
    .option(
      "--data-dir <folder>",
      "the agent's folder (env: BOWLINE_AGENT_DATA_DIR; default: ~/.bowline-agent, as root /var/lib/bowline)",
    )
    .option("--wait <seconds>", "how long to wait for the agent (default: 60s)")
    .addOption(new Option("-o, --output <format>", "(default: text)").choices(["text", "json"]));
  rotate.action(async (flags: { runtime: Runtime }) => {
    const args = forwarded(cli, rotate, { paths: ["data-dir"], except: ["runtime"] });
    await become(cli, programs.agent(flags.runtime), ["rotate-key", ...args]);
  });
}
