/** `bowline agent install`: an agent as a service of this host. */
import { chown, mkdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { hostRights, isHostRight } from "@bowline/kernel";
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { readUrl } from "../client.ts";
import { confirm } from "../confirm.ts";
import { exitCodes, Failure, usage } from "../failure.ts";
import { exists, foreignEntry, idsOf, type PlannedFile, writeWhole } from "../host-files.ts";
import { programs, runHere } from "../programs.ts";
import { readTokenFile, readTokenStdin } from "../secrets.ts";
import { checkUnitName, environmentText, settingsFolder, unitFolder, unitText } from "../systemd.ts";
import { runtimeOption } from "./agent-host.ts";

type InstallFlags = {
  runtime: "local" | "docker" | "kubernetes";
  tokenFile?: string;
  tokenStdin?: boolean;
  name?: string;
  label?: string[];
  dataDir: string;
  caFile?: string;
  caFingerprint?: string;
  clientCert?: string;
  clientKey?: string;
  deny?: string[];
  transport?: string;
  insecure?: boolean;
  keyMaxAge?: string;
  user?: string;
  unit: string;
  root?: string;
  dryRun?: boolean;
  yes?: boolean;
  output: "text" | "json";
};

/** What is to be written, and what systemd is asked for then. */
type Plan = { files: readonly PlannedFile[]; dataDir: string; commands: readonly (readonly string[])[] };

export function installCommand(cli: Cli, agent: Command): void {
  verb(agent, {
    usage: "install <url>",
    summary: "Make an agent a service of this host (systemd), enabled and started",
    examples: [
      "agent install https://bowline.example.com --token-file token --dry-run",
      "agent install https://bowline.example.com --token-file token --name press-1 --user bowline",
    ],
    more:
      "It writes a unit and an environment file (mode 0600, with the token), and lets systemd enable and start it; where\n" +
      "systemd does not run it says what to do. HTTPS_PROXY, HTTP_PROXY and NO_PROXY are taken over from where it is called.\n" +
      "What the agent runs goes on while the agent restarts. Called again with the same it changes nothing; with other\n" +
      "settings it asks and restarts the agent. Node and this installation stay where they are: the unit names their paths.",
  })
    .addOption(runtimeOption())
    .option("--token-file <file>", "file with the registration token; needed unless the folder's agent has enrolled")
    .option("--token-stdin", "read the registration token from standard input")
    .option("--name <name>", "its name (default: the host's name)")
    .option(
      "--label <key=value>",
      "a label that it reports; may be repeated",
      (text: string, before: string[] | undefined) => [...(before ?? []), text],
    )
    .option(
      "--deny <rights>",
      `what nobody gets of this host, whatever the cluster allows: ${Object.keys(hostRights).join(", ")}; comma-separated, may be repeated`,
      (text: string, before: string[] | undefined) => [...(before ?? []), text],
    )
    .option("--data-dir <folder>", "keys, journal, logs", "/var/lib/bowline")
    .option("--ca-file <file>", "CA of the server's certificate; the agent's user must be able to read it")
    .option("--ca-fingerprint <sha256:…>", "fingerprint of that CA, which is then taken from the server and kept")
    .option("--client-cert <file>", "client certificate, PEM, where the cluster requires one; read at each dial")
    .option("--client-key <file>", "its key, PEM")
    .addOption(
      new Option("--transport <how>", "how sessions are carried (default: auto)").choices(["auto", "stream", "poll"]),
    )
    .option("--insecure", "clear text beyond this host")
    .option("--key-max-age <age>", "replace its keys when they are older: 12h, 90d (default: never)")
    .option("--user <user>", "run it, and what it runs, as this user, who exists (default: root)")
    .option("--unit <name>", "name of the unit, for several agents on one host", "bowline-agent")
    .option("--root <folder>", "write below this folder, as for an image, and start nothing")
    .option("--dry-run", "show what would be written and run; change nothing")
    .option("-y, --yes", "replace an installation without asking")
    .addOption(new Option("-o, --output <format>", "").choices(["text", "json"]).default("text"))
    .action((url: string, flags: InstallFlags) => install(cli, readUrl(url), flags));
}

async function install(cli: Cli, url: string, flags: InstallFlags): Promise<void> {
  checkUnitName(flags.unit);
  if (flags.user !== undefined && !/^[a-z_][a-z0-9_-]{0,31}$/.test(flags.user))
    throw usage(`--user ${flags.user}: no user`);
  const program = programs.agent(flags.runtime);
  if (!(await exists(program)))
    throw new Failure(exitCodes.failed, `This installation has no ${program}.`, { reason: "NOT_INSTALLED" });
  const below = flags.root === undefined ? undefined : resolve(cli.settings.folder, flags.root);
  const at = (path: string): string => (below === undefined ? path : join(below, path));
  const dataDir = resolve(cli.settings.folder, flags.dataDir);
  const token = await tokenFor(cli, flags, at(dataDir));
  const environmentFile = `${settingsFolder}/${flags.unit}.env`;
  const { runtime, user = "", dryRun = false } = flags;
  const unit = unitText({ name: flags.unit, command: [process.execPath, program], environmentFile, runtime, user });
  const settings = settingsOf(cli, url, { ...flags, dataDir }, token, dryRun);
  const files = [
    { path: at(environmentFile), mode: 0o600, content: settings },
    { path: at(`${unitFolder}/${flags.unit}.service`), mode: 0o644, content: unit },
  ];
  const service = `${flags.unit}.service`;
  const replaced = [["daemon-reload"], ["enable", service], ["restart", service]];
  const plan = (commands: readonly string[][]): Plan => ({
    ...{ files, dataDir: at(dataDir) },
    commands: commands.map((command) => ["systemctl", ...command]),
  });
  if (dryRun) return tell(cli, flags, plan(replaced), "would");
  if (below === undefined && process.getuid?.() !== 0) {
    throw new Failure(exitCodes.failed, "Only root installs a service.", {
      reason: "NOT_ROOT",
      lines: ["Run it with sudo, or look at what it would do with --dry-run. Nothing was written."],
    });
  }
  // In an image its own users count, and systemd looks when it starts.
  const owner = user === "" || below !== undefined ? undefined : await idsOf(user);
  if (owner !== undefined) await refuseOthersFiles(dataDir, user, owner, flags.unit);
  const before = await Promise.all(files.map(({ path }) => readFile(path, "utf8").catch(() => undefined))); // none yet
  const same = files.every(({ content }, index) => before[index] === content);
  if (!same && before.some((content) => content !== undefined)) await confirm(cli, flags, `replace ${service}`);
  await mkdir(at(dataDir), { recursive: true, mode: 0o700 });
  if (owner !== undefined) await chown(at(dataDir), owner.uid, owner.gid);
  if (!same) for (const file of files) await writeWhole(file);
  const done = plan(same ? [["enable", "--now", service]] : replaced);
  const starts = below === undefined && (await exists("/run/systemd/system"));
  if (starts) for (const command of done.commands) await runHere(command);
  tell(cli, flags, done, starts ? "did" : same ? "kept" : "wrote");
}

/** The environment file. `hidden`: without secrets, to be shown. */
function settingsOf(cli: Cli, url: string, flags: InstallFlags, token: string | undefined, hidden: boolean): string {
  const path = (file: string | undefined) => (file === undefined ? undefined : resolve(cli.settings.folder, file));
  const secret = (text: string | undefined) => (text === undefined || !hidden ? text : "(hidden)");
  const { https, http, none } = cli.settings.proxies;
  const proxy = (text: string | undefined) => (text?.includes("@") === true ? secret(text) : text);
  try {
    return environmentText({
      BOWLINE_SERVER: url,
      BOWLINE_AGENT_DATA_DIR: flags.dataDir,
      BOWLINE_REGISTRATION_TOKEN: secret(token),
      BOWLINE_AGENT_NAME: flags.name,
      BOWLINE_AGENT_LABELS: flags.label?.join(","),
      BOWLINE_AGENT_DENY: deniedOf(flags.deny),
      BOWLINE_CA_FILE: path(flags.caFile),
      BOWLINE_CA_FINGERPRINT: flags.caFingerprint,
      BOWLINE_CLIENT_CERT: path(flags.clientCert),
      BOWLINE_CLIENT_KEY: path(flags.clientKey),
      BOWLINE_TRANSPORT: flags.transport,
      BOWLINE_INSECURE: flags.insecure === true ? "true" : undefined,
      BOWLINE_AGENT_KEY_MAX_AGE: flags.keyMaxAge,
      BOWLINE_LOG_FORMAT: "json",
      HTTPS_PROXY: proxy(https),
      HTTP_PROXY: proxy(http),
      NO_PROXY: none,
    });
  } catch (error) {
    if (error instanceof RangeError) throw usage(error.message, { cause: error });
    throw error;
  }
}

/** A word that no agent knows would keep it from starting, later and elsewhere. */
function deniedOf(texts: readonly string[] = []): string | undefined {
  const names = texts.flatMap((text) => text.split(",").map((name) => name.trim())).filter((name) => name !== "");
  const unknown = names.find((name) => !isHostRight(name));
  if (unknown !== undefined) throw usage(`--deny ${unknown}: of ${Object.keys(hostRights).join(", ")}`);
  return names.length === 0 ? undefined : names.join(",");
}

/** Undefined where the folder's agent has enrolled and none is given, or where nothing is written. */
async function tokenFor(cli: Cli, flags: InstallFlags, dataDir: string): Promise<string | undefined> {
  if (flags.tokenStdin === true) return readTokenStdin(cli);
  if (flags.tokenFile !== undefined) return readTokenFile(cli, flags.tokenFile);
  const given = cli.settings.environment["BOWLINE_REGISTRATION_TOKEN"]?.trim() ?? "";
  if (given !== "") return given;
  if (flags.dryRun === true || (await exists(join(dataDir, "agent.json")))) return undefined;
  throw usage("Give a registration token: --token-file or --token-stdin.", {
    next: ["token create --cluster <name>"],
  });
}

/** As after an installation as root, whose keys the agent of this user could not read. */
async function refuseOthersFiles(dataDir: string, user: string, owner: { uid: number }, unit: string): Promise<void> {
  if (owner.uid === 0) return; // reads everybody's
  const foreign = await foreignEntry(dataDir, owner.uid);
  if (foreign === undefined) return;
  throw new Failure(exitCodes.failed, `${foreign} belongs to another user than ${user}.`, {
    reason: "DATA_DIR_OF_ANOTHER_USER",
    lines: [
      `Nothing was written. The agent would run as ${user} and could neither use this folder nor end what the other user`,
      "runs there. Unpublish what runs, then give the folder away and install again; or name another --data-dir:",
      `  systemctl stop ${unit}; chown -R ${user}: ${dataDir}`,
    ],
  });
}

function tell(
  cli: Cli,
  flags: InstallFlags,
  { files, dataDir, commands }: Plan,
  how: "would" | "wrote" | "kept" | "did",
): void {
  const lines = commands.map((command) => command.join(" "));
  if (flags.output === "json") {
    const shown = files.map(({ path, mode, content }) => ({
      path,
      mode: `0${mode.toString(8)}`,
      ...(how === "would" ? { content } : {}),
    }));
    const [ran, next] = how === "did" ? [lines, []] : [[], lines];
    return cli.print(JSON.stringify({ files: shown, dataDir, dryRun: how === "would", ran, next }));
  }
  const listed = lines.map((line) => `  ${line}`).join("\n");
  if (how === "would") {
    cli.print(`Would make ${dataDir} (mode 0700${flags.user === undefined ? "" : `, of ${flags.user}`})`);
    for (const { path, mode, content } of files)
      cli.print(`\nWould write ${path} (mode 0${mode.toString(8)}):\n\n${content}`);
    return cli.print(`Would run:\n${listed}`);
  }
  for (const { path } of files) cli.print(`${how === "kept" ? "Is there already:" : "Wrote"} ${path}`);
  if (how === "did") cli.print(`The service ${flags.unit} runs. Its log: journalctl -u ${flags.unit} -f`);
  else cli.note(`Nothing was started. Where systemd runs:\n${listed}`);
}
