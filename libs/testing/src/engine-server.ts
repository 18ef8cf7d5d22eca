/**
 * A Docker Engine of the tests' own: dockerd and what it needs, from the path
 * or from Debian's packages, with all of its data in one folder.
 *
 * K1: it is a process tree with a mount and a PID namespace of its own, so that
 *     its end takes every container and every mount with it, however it ends.
 * K2: it changes nothing of the host: no default bridge, no rules of iptables,
 *     no forwarding. Published ports are held by its own proxy; networks of
 *     containers reach each other and the host, not the world.
 *
 * Found by trying, as root in a plain virtual machine with cgroups of version 1:
 * overlay2 works; iptables is needed all the same, because the engine's name
 * server is set up with it inside of each container; unpacked, its modules are
 * found by XTABLES_LIBDIR; without the right to lower an OOM score the daemon
 * must not try (`--oom-score-adjust=0`).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmdirSync, symlinkSync } from "node:fs";
import { request } from "node:http";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { testSettings } from "./config.ts";
import { findProgram, type FoundProgram } from "./debian-programs.ts";
import { childrenOf } from "./leaks.ts";

export interface EngineServer {
  /** As `--docker-host` takes it. */
  host: string;
  /** Removes what is in it, and ends it. */
  stop(): Promise<void>;
  /** Ends it as a machine's shutdown does: what is in it stays, and is there after a start with the same folder. */
  halt(): Promise<void>;
}

export interface EngineOptions {
  /** Keeps the engine's data in memory, of this size: its disk can get full. */
  diskBytes?: number;
}

/** It is up in 200 ms; a busy machine with a cold disk takes longer. */
const startWithinMs = 60_000;
const lookEveryMs = 50;
/** A daemon without containers ends at once; one that has some ends them first. */
const endWithinMs = 20_000;
/** How much of its log a failure shows. */
const logTail = 2_000;

/** Debian's, with the libraries that a minimal system lacks. */
const packages = [
  ...["docker.io", "containerd", "runc", "tini", "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11"],
  ...["libmnl0", "libnfnetlink0", "libnetfilter-conntrack3", "libdevmapper1.02.1", "libseccomp2"],
];

const missing =
  "tests need a Docker Engine: install one (apt-get install docker.io iptables), or let Debian's packages be fetched " +
  "(apt-get has to reach a mirror), or set TEST_DOCKER_HOST (unix:///var/run/docker.sock)";

/** Starts an engine with its data in `folder`, which has to be short: sockets are below it. */
export async function startEngineServer(folder: string, options: EngineOptions = {}): Promise<EngineServer> {
  if (process.getuid?.() !== 0) throw new Error("tests that start a Docker Engine need root");
  const found = await findProgram({ name: "dockerd", path: "usr/sbin/dockerd", packages, missing });
  const socket = join(folder, "docker.sock");
  const cgroup = `/bowline-test-${process.pid}`;
  const disk = diskOf(folder, options);
  const daemon = spawn("setpriv", [...namespaces, ...disk, found.program, ...flagsOf(folder, socket, cgroup)], {
    env: { ...process.env, ...environmentOf(found, folder) },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  daemon.stderr.setEncoding("utf8").on("data", (text: string) => void (log = (log + text).slice(-logTail)));
  const ended = new Promise<void>((resolve) => daemon.once("close", () => resolve()));
  daemon.once("error", (error) => void (log += error.message));
  const halt = async (): Promise<void> => {
    if (daemon.pid !== undefined) await endDaemon(daemon, ended);
    removeCgroups(cgroup);
  };
  const stop = async (): Promise<void> => {
    await empty(socket).catch(() => {}); // It may have died; its end takes the containers along.
    await halt();
  };
  const giveUpAt = performance.now() + startWithinMs;
  while (!(await answers(socket))) {
    if (daemon.exitCode !== null || daemon.pid === undefined || performance.now() > giveUpAt) {
      await stop();
      throw new Error(`the tests' Docker Engine does not start:\n${log}`);
    }
    await sleep(lookEveryMs);
  }
  return { host: `unix://${socket}`, stop, halt };
}

/** K1. It ends with whoever started it, also with one that is killed. */
const namespaces = [
  ...["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"],
  ...["--pid", "--fork", "--kill-child", "--mount-proc"],
];

/** Mounted where only the daemon sees it (K1). */
function diskOf(folder: string, { diskBytes }: EngineOptions): string[] {
  if (diskBytes === undefined) return [];
  const data = join(folder, "data");
  mkdirSync(data, { recursive: true });
  return ["sh", "-c", `mount -t tmpfs -o size=${diskBytes} tmpfs "${data}" && exec "$@"`, "disk"];
}

/** K2. */
const flagsOf = (folder: string, socket: string, cgroup: string): string[] => [
  ...["--data-root", join(folder, "data"), "--exec-root", join(folder, "run"), "--pidfile", join(folder, "pid")],
  ...["--host", `unix://${socket}`, "--cgroup-parent", cgroup, "--oom-score-adjust=0", "--bridge=none"],
  ...["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=true"],
];

function environmentOf({ program, env }: FoundProgram, folder: string): Record<string, string> {
  const { path } = testSettings();
  if (Object.keys(env).length === 0) return {}; // installed
  const root = join(dirname(program), "../..");
  const names = join(folder, "bin"); // what the package's own set-up would have linked
  mkdirSync(names, { recursive: true });
  for (const name of ["iptables", "ip6tables"])
    if (!existsSync(join(names, name))) symlinkSync(join(root, "usr/sbin/xtables-nft-multi"), join(names, name));
  const modules = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map((triplet) => join(root, "usr/lib", triplet, "xtables"));
  return {
    ...env,
    PATH: [names, join(root, "usr/sbin"), join(root, "usr/bin"), path].join(":"),
    XTABLES_LIBDIR: modules.find((modulesFolder) => existsSync(modulesFolder)) ?? "",
  };
}

/** In order: the daemon, then whatever is left of it (K1). */
async function endDaemon(daemon: ChildProcess, ended: Promise<void>): Promise<void> {
  for (const pid of childrenOf(daemon.pid ?? 0).keys()) signal(pid, "SIGTERM"); // unshare itself does not pass it on
  await Promise.race([ended, sleep(endWithinMs, undefined, { ref: false })]);
  daemon.kill("SIGKILL");
  await ended;
}

async function empty(socket: string): Promise<void> {
  const containers = (await ask(socket, "GET", "/containers/json?all=1")) as { Id: string }[];
  for (const { Id } of containers) await ask(socket, "DELETE", `/containers/${Id}?force=1&v=1`);
  await ask(socket, "POST", "/networks/prune"); // their bridges are the host's
}

function removeCgroups(cgroup: string): void {
  for (const hierarchy of ["", ...namesIn("/sys/fs/cgroup")]) {
    const folder = join("/sys/fs/cgroup", hierarchy, cgroup);
    if (!existsSync(folder)) continue;
    try {
      for (const inner of readdirSync(folder, { withFileTypes: true }))
        if (inner.isDirectory()) rmdirSync(join(folder, inner.name));
      rmdirSync(folder);
    } catch {
      continue; // A process that the kernel is still taking apart is in it; an empty group costs nothing.
    }
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // No cgroups here.
  }
}

async function answers(socket: string): Promise<boolean> {
  try {
    await ask(socket, "GET", "/_ping");
    return true;
  } catch {
    return false; // Not yet.
  }
}

function ask(socketPath: string, method: string, path: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, agent: false, timeout: endWithinMs }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => {
        if ((response.statusCode ?? 500) >= 300) return reject(new Error(`${method} ${path}: ${text}`));
        resolve(text.startsWith("[") || text.startsWith("{") ? JSON.parse(text) : text);
      });
    });
    sent.on("timeout", () => sent.destroy(new Error("no answer")));
    sent.on("error", reject);
    sent.end();
  });
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}
