/** `bowline agent join`: starts an agent on this host, in the foreground. */
import { hostRights } from "@bowline/kernel";
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { readUrl } from "../client.ts";
import { become, forwarded, programs } from "../programs.ts";

export function joinCommand(cli: Cli, agent: Command): void {
  const join = verb(agent, {
    usage: "join <url>",
    summary: "Start an agent here, which dials the server and enrols with a registration token",
    examples: [
      "agent join https://bowline.example.com --token-file token",
      "agent join https://bowline.example.com --runtime docker --token-file token",
      "agent join https://bowline.example.com --runtime docker --token-file token --deny privileged,host-network,exec",
      "agent join http://127.0.0.1:8080 --token-file token --data-dir .bowline-agent --name press-1",
    ],
    more:
      "It stays in the foreground until Ctrl-C; what it runs goes on. Once it is enrolled its key is in the data folder: started\n" +
      "again, it needs no token. The token comes from a file, standard input or BOWLINE_REGISTRATION_TOKEN, never from a flag.\n" +
      "HTTPS_PROXY, HTTP_PROXY and NO_PROXY say through which proxy it dials.",
  })
    .addOption(
      new Option("--runtime <runtime>", "what it runs things with; the cluster's")
        .choices(["local", "docker", "kubernetes"])
        .default("local"),
    )
    .option(
      "--docker-host <address>",
      "with --runtime docker: unix:///… or tcp://host:port (env: DOCKER_HOST; default: unix:///var/run/docker.sock)",
    )
    .option("--docker-cert-path <folder>", "ca.pem, cert.pem, key.pem of a tcp:// engine (env: DOCKER_CERT_PATH)")
    .option("--allow-host-paths", "containers may mount paths of the host (env: BOWLINE_ALLOW_HOST_PATHS)")
    .option(
      "--deny <rights>",
      `what nobody gets of this host, whatever the cluster allows: ${Object.keys(hostRights).join(", ")}; comma-separated, may be repeated (env: BOWLINE_AGENT_DENY)`,
      collected,
    )
    .option("--token-file <file>", "file with the registration token (env: BOWLINE_REGISTRATION_TOKEN_FILE)")
    .option("--token-stdin", "read the registration token from standard input")
    .option("--name <name>", "its name (env: BOWLINE_AGENT_NAME; default: the host's name)")
    .option("--label <key=value>", "a label that it reports; may be repeated (env: BOWLINE_AGENT_LABELS)", collected)
    .option(
      "--data-dir <folder>",
      "keys, journal, logs (env: BOWLINE_AGENT_DATA_DIR; default: ~/.bowline-agent, as root /var/lib/bowline)",
    )
    .option("--ca-file <file>", "CA of the server's certificate (env: BOWLINE_CA_FILE)")
    .option(
      "--ca-fingerprint <sha256:…>",
      "fingerprint of that CA, which is then taken from the server and kept (env: BOWLINE_CA_FINGERPRINT)",
    )
    .option(
      "--key-max-age <age>",
      "replace its keys when they are older: 12h, 90d (env: BOWLINE_AGENT_KEY_MAX_AGE; default: never)",
    )
    .option(
      "--client-cert <file>",
      "client certificate, PEM, where the cluster requires one; read at each dial (env: BOWLINE_CLIENT_CERT)",
    )
    .option("--client-key <file>", "its key, PEM (env: BOWLINE_CLIENT_KEY)")
    .option("--insecure", "clear text beyond this host (env: BOWLINE_INSECURE)")
    .addOption(
      new Option(
        "--transport <how>",
        "how its session is carried; auto: by a stream, and by polling where none passes (env: BOWLINE_TRANSPORT; default: auto)",
      ).choices(["auto", "stream", "poll"]),
    )
    .option(
      "--stream-retry-ms <ms>",
      "while it polls, look for a stream at least this often (env: BOWLINE_STREAM_RETRY_MS; default: 300000)",
    )
    .option(
      "--greeting-within-ms <ms>",
      "a stream that is not answered for this long is broken (env: BOWLINE_GREETING_WITHIN_MS; default: 20000)",
    )
    .addOption(
      new Option("--log-format <format>", "(env: BOWLINE_LOG_FORMAT; default: pretty on a terminal)").choices([
        "json",
        "pretty",
      ]),
    )
    .option("--log-level <level>", "(env: BOWLINE_LOG_LEVEL; default: info)")
    .option(
      "--stop-workloads-on-exit",
      "stop what it runs when it stops (env: BOWLINE_STOP_WORKLOADS_ON_EXIT; default: it goes on)",
    )
    .option("--lifeline-stdin", "stop workloads and exit when standard input closes");
  join.action(async (url: string, flags: { runtime: "local" | "docker" | "kubernetes" }) => {
    const args = forwarded(cli, join, {
      paths: ["token-file", "data-dir", "ca-file", "client-cert", "client-key", "docker-cert-path"],
      except: ["runtime"],
    });
    await become(cli, programs.agent(flags.runtime), ["--server", readUrl(url), ...args]);
  });
}

function collected(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}
