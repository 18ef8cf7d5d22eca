/** `bowline agent uninstall`: the way back from `agent install`. */
import { readdir, readFile, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { confirm } from "../confirm.ts";
import { exitCodes, Failure } from "../failure.ts";
import { exists } from "../host-files.ts";
import { runHere } from "../programs.ts";
import { checkUnitName, readEnvironment, settingsFolder, unitFolder } from "../systemd.ts";

type UninstallFlags = { unit: string; root?: string; purge?: boolean; yes?: boolean; output: "text" | "json" };

export function uninstallCommand(cli: Cli, agent: Command): void {
  verb(agent, {
    usage: "uninstall",
    summary: "Stop the agent's service on this host and remove it",
    examples: ["agent uninstall", "agent uninstall --purge --yes"],
    more:
      "The data folder stays unless --purge is given, so that another installation goes on with the same agent. What the\n" +
      "agent runs goes on too: unpublish first, or end it by hand; --purge refuses while something of it runs. The server\n" +
      "keeps the agent until `agent retire` or `agent revoke`.",
  })
    .option("--unit <name>", "name of the unit", "bowline-agent")
    .option("--root <folder>", "below this folder, as for an image")
    .option("--purge", "remove the data folder too: keys, journal, volumes, logs")
    .option("-y, --yes", "do not ask")
    .addOption(new Option("-o, --output <format>", "").choices(["text", "json"]).default("text"))
    .action((flags: UninstallFlags) => uninstall(cli, flags));
}

async function uninstall(cli: Cli, flags: UninstallFlags): Promise<void> {
  checkUnitName(flags.unit);
  const at = (path: string): string =>
    flags.root === undefined ? path : join(resolve(cli.settings.folder, flags.root), path);
  const unit = at(`${unitFolder}/${flags.unit}.service`);
  const environment = at(`${settingsFolder}/${flags.unit}.env`);
  const settings = await readFile(environment, "utf8").catch(() => undefined); // gone, or not ours to read
  if (settings === undefined && !(await exists(unit))) {
    const message = `There is no service ${flags.unit} here.`;
    throw new Failure(exitCodes.failed, message, { reason: "NOT_INSTALLED", next: ["agent install --help"] });
  }
  if (flags.root === undefined && process.getuid?.() !== 0)
    throw new Failure(exitCodes.failed, "Only root removes a service.", {
      reason: "NOT_ROOT",
      lines: ["Run it with sudo. Nothing was removed."],
    });
  const dataDir = readEnvironment(settings ?? "", "BOWLINE_AGENT_DATA_DIR");
  const folder = flags.purge === true && dataDir !== undefined ? at(dataDir) : undefined;
  if (flags.purge === true && dataDir === undefined) {
    throw new Failure(exitCodes.failed, `${environment} does not say which data folder to remove.`, {
      reason: "DATA_DIR_UNKNOWN",
      lines: ["Nothing was removed. Remove the service without --purge, then the folder by hand."],
    });
  }
  if (folder !== undefined) {
    await refuseAnythingElse(folder);
    await refuseWhereSomethingRuns(folder);
  }
  const doomed = [unit, environment, ...(folder === undefined ? [] : [`${folder} with keys, journal and volumes`])];
  await confirm(cli, flags, `stop the service ${flags.unit} and remove ${doomed.join(", ")}`);
  const stops = flags.root === undefined && (await exists("/run/systemd/system")) && (await exists(unit));
  if (stops) await runHere(["systemctl", "disable", "--now", `${flags.unit}.service`]);
  // Until it was stopped, or while we waited for a yes, the agent may have started something.
  if (folder !== undefined) await refuseWhereSomethingRuns(folder, stops);
  await rm(unit, { force: true });
  await rm(environment, { force: true });
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  if (stops) await runHere(["systemctl", "daemon-reload"]);
  if (flags.output === "json") {
    const removed = [unit, environment, ...(folder === undefined ? [] : [folder])];
    return cli.print(
      JSON.stringify({ removed, kept: folder === undefined && dataDir !== undefined ? [at(dataDir)] : [] }),
    );
  }
  for (const path of doomed) cli.print(`Removed ${path}`);
  if (folder === undefined && dataDir !== undefined)
    cli.note(`The agent's data stays in ${at(dataDir)}, and what it ran goes on; to remove the data: --purge`);
}

/** What somebody wrote into the environment file by hand is not a reason to remove it. */
async function refuseAnythingElse(dataDir: string): Promise<void> {
  if (!(await exists(dataDir)) || (await exists(join(dataDir, "signing-key.json")))) return;
  if ((await readdir(dataDir)).length === 0) return;
  throw new Failure(exitCodes.failed, `${dataDir} is not the folder of an agent.`, {
    reason: "DATA_DIR_UNKNOWN",
    lines: ["Nothing was removed. Remove the service without --purge, then the folder by hand."],
  });
}

/** The data folder holds volumes and logs of what runs; the marker in a process's environment says whose it is. */
async function refuseWhereSomethingRuns(dataDir: string, stopped = false): Promise<void> {
  const text = await readFile(join(dataDir, "runtime.json"), "utf8").catch(() => "{}"); // it never ran anything
  const { id } = JSON.parse(text) as { id?: string };
  if (id === undefined) return;
  const pids: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^[0-9]+$/.test(pid)) continue;
    const environment = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => ""); // ended meanwhile
    if (environment.split("\0").includes(`BOWLINE_RUNTIME=${id}`)) pids.push(pid);
  }
  if (pids.length === 0) return;
  throw new Failure(exitCodes.failed, `${pids.length} processes that the agent started still run.`, {
    reason: "WORKLOADS_RUN",
    lines: stopped
      ? ["The service is stopped, and nothing was removed. End them and uninstall again:", `  kill ${pids.join(" ")}`]
      : ["Nothing was removed. Unpublish what is there, or end them:", `  kill ${pids.join(" ")}`],
  });
}
