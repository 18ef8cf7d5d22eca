/** `bowline agent rotate-key` and `doctor`: about the agent of this host, whose program does it. */
import { readFile } from "node:fs/promises";
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { readUrl } from "../client.ts";
import { exitCodes, Failure } from "../failure.ts";
import { become, forwarded, programs } from "../programs.ts";
import { checkUnitName, readAllEnvironment, settingsFolder } from "../systemd.ts";

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

export function doctorCommand(cli: Cli, agent: Command): void {
  const doctor = verb(agent, {
    usage: "doctor [url]",
    summary: "Find out why an agent of this host does not reach its server, or is refused there",
    examples: [
      "agent doctor",
      "agent doctor --unit bowline-agent",
      "agent doctor https://bowline.example.com --token-file token --ca-fingerprint sha256:4f1c… --output json",
    ],
    more:
      "It takes the steps one by one (DNS, TCP, proxy, TLS, HTTP/2, clock, token, version), names the first that fails and\n" +
      "says what to do. It changes nothing: no token is spent and no session opened, also beside an agent that runs. The\n" +
      "server is the one at which the folder's agent enrolled, unless one is named. It exits with 4 where the server refuses\n" +
      "token or key, 5 where it is not reached, 1 for anything else that fails.",
  })
    .addOption(runtimeOption())
    .option("--unit <name>", "take the settings of the service that `agent install` made; as root")
    .option(
      "--data-dir <folder>",
      "the agent's folder (env: BOWLINE_AGENT_DATA_DIR; default: ~/.bowline-agent, as root /var/lib/bowline)",
    )
    .option("--token-file <file>", "file with a registration token, where none has enrolled yet")
    .option("--token-stdin", "read the registration token from standard input")
    .option("--ca-file <file>", "CA of the server's certificate (env: BOWLINE_CA_FILE)")
    .option("--ca-fingerprint <sha256:…>", "fingerprint of that CA (env: BOWLINE_CA_FINGERPRINT)")
    .option("--client-cert <file>", "client certificate, PEM (env: BOWLINE_CLIENT_CERT)")
    .option("--client-key <file>", "its key, PEM (env: BOWLINE_CLIENT_KEY)")
    .addOption(
      new Option("--transport <how>", "how the agent carries sessions; poll leaves HTTP/2 out (default: auto)").choices(
        ["auto", "stream", "poll"],
      ),
    )
    .option("--insecure", "clear text beyond this host (env: BOWLINE_INSECURE)")
    .addOption(new Option("-o, --output <format>", "(default: text)").choices(["text", "json"]));
  doctor.action(async (url: string | undefined, flags: { runtime: Runtime; unit?: string }) => {
    const paths = ["data-dir", "token-file", "ca-file", "client-cert", "client-key"];
    const args = forwarded(cli, doctor, { paths, except: ["runtime", "unit"] });
    const server = url === undefined ? [] : ["--server", readUrl(url)];
    const environment = { ...cli.settings.environment, ...(await settingsOfUnit(flags.unit)) };
    const inPlace = { ...cli, settings: { ...cli.settings, environment } };
    await become(inPlace, programs.agent(flags.runtime), ["doctor", ...server, ...args]);
  });
}

async function settingsOfUnit(unit: string | undefined): Promise<Record<string, string>> {
  if (unit === undefined) return {};
  checkUnitName(unit);
  const file = `${settingsFolder}/${unit}.env`;
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    const denied = error.code === "EACCES";
    throw new Failure(exitCodes.failed, `The settings of ${unit} cannot be read: ${error.message}.`, {
      reason: denied ? "NOT_ROOT" : "NOT_INSTALLED",
      lines: denied ? ["Run it with sudo."] : [],
      next: denied ? [] : ["agent install --help"],
      cause: error,
    });
  });
  return readAllEnvironment(text);
}
