/** `--help` of the agent's program: each flag of config.ts with its variable and default. */
import { hostRights } from "@bowline/kernel";
import type { agentFlags } from "./config.ts";

type Flag = keyof typeof agentFlags;

const flags: Record<Flag, readonly [argument: string, about: string]> = {
  server: ["<url>", "the server (env: BOWLINE_SERVER); required"],
  "data-dir": [
    "<folder>",
    "keys, journal, logs (env: BOWLINE_AGENT_DATA_DIR; default: ~/.bowline-agent, as root /var/lib/bowline)",
  ],
  name: ["<name>", "its name (env: BOWLINE_AGENT_NAME; default: the host's)"],
  label: ["<key=value>", "a label that it reports; may be repeated (env: BOWLINE_AGENT_LABELS, comma-separated)"],
  "token-file": ["<file>", "file with the registration token (env: BOWLINE_REGISTRATION_TOKEN_FILE)"],
  "token-stdin": ["", "read the registration token from standard input (or env: BOWLINE_REGISTRATION_TOKEN)"],
  "ca-file": ["<file>", "CA of the server's certificate, PEM (env: BOWLINE_CA_FILE; default: the system's)"],
  "ca-fingerprint": ["<sha256:…>", "a CA in the server's chain to trust, and keep (env: BOWLINE_CA_FINGERPRINT)"],
  "client-cert": ["<file>", "certificate that it shows to a server that asks, PEM (env: BOWLINE_CLIENT_CERT)"],
  "client-key": ["<file>", "its key, PEM (env: BOWLINE_CLIENT_KEY)"],
  insecure: ["", "clear text beyond this host (env: BOWLINE_INSECURE)"],
  transport: [
    "<how>",
    "auto: a stream, and polling where none passes; or stream, or poll (env: BOWLINE_TRANSPORT; default: auto)",
  ],
  "stream-retry-ms": [
    "<ms>",
    "while it polls, look for a stream at least this often (env: BOWLINE_STREAM_RETRY_MS; default: 300000)",
  ],
  "greeting-within-ms": [
    "<ms>",
    "a session that is not answered for this long is broken (env: BOWLINE_GREETING_WITHIN_MS; default: 20000)",
  ],
  "key-max-age": ["<age>", "replace keys that are older: 12h, 90d (env: BOWLINE_AGENT_KEY_MAX_AGE; default: never)"],
  "log-format": ["<format>", "json or pretty (env: BOWLINE_LOG_FORMAT; default: pretty on a terminal)"],
  "log-level": ["<level>", "(env: BOWLINE_LOG_LEVEL; default: info)"],
  "docker-host": [
    "<address>",
    "a Docker agent's engine: unix:///… or tcp://host:port (env: DOCKER_HOST; default: unix:///var/run/docker.sock)",
  ],
  "docker-cert-path": ["<folder>", "its ca.pem, cert.pem, key.pem, for tcp:// (env: DOCKER_CERT_PATH)"],
  "allow-host-paths": ["", "containers may mount paths of the host (env: BOWLINE_ALLOW_HOST_PATHS)"],
  deny: [
    "<rights>",
    `what nobody gets of this host, whatever the cluster allows: ${Object.keys(hostRights).join(", ")}; comma-separated, may be repeated (env: BOWLINE_AGENT_DENY)`,
  ],
  "lifeline-stdin": ["", "stop workloads and exit when standard input closes"],
  "stop-workloads-on-exit": ["", "stop what it runs when it stops (env: BOWLINE_STOP_WORKLOADS_ON_EXIT)"],
};

export function helpText(): string {
  const named = Object.entries(flags).map(([flag, [argument, about]]) => [`--${flag} ${argument}`.trimEnd(), about]);
  const width = Math.max(...named.map(([flag = ""]) => flag.length));
  return [
    "A Bowline agent: dials the server, enrols once with a registration token, and runs what it is told.",
    "",
    "  <program> --server <url> [flags]          the agent, until SIGTERM or Ctrl-C",
    "  <program> doctor [flags] [--output json]  takes the steps to the server one by one, and names the first that fails;",
    "                                            changes nothing, also beside an agent that runs",
    "  <program> health [--data-dir <folder>] [--output json]",
    "                                            whether the agent that runs there holds a session and its runtime works",
    "  <program> rotate-key [--data-dir <folder>] [--wait 60s] [--output json]",
    "                                            asks the agent that runs there for new keys",
    "",
    "Flags (a flag wins over its variable):",
    ...named.map(([flag = "", about = ""]) => `  ${flag.padEnd(width)}  ${about}`),
    "",
    "Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.",
    "",
    "Examples:",
    "  <program> --server https://bowline.example.com --token-file token",
    "  <program> doctor --data-dir /var/lib/bowline",
    "  <program> doctor --server https://bowline.example.com --token-file token --output json",
    "  <program> health --data-dir /var/lib/bowline",
    "  <program> rotate-key --data-dir /var/lib/bowline --wait 120s",
    "",
    "Exit codes: 0 it was stopped; 1 it failed; 2 wrong usage; 3 not finished in time; 4 refused for good;",
    "            5 the server is not reached (doctor)",
    "",
  ].join("\n");
}
