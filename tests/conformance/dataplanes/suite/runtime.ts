/**
 * As much of a runtime as a data plane needs: it starts the compiled workloads
 * as processes of this machine, tells them their ports, and knows their volumes.
 * A scripted peer of the port, so that these suites need no real runtime.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { ConvergeEnd, Runtime } from "@bowline/agent-core";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { freePort } from "@bowline/testing";

/** A process of a loaded machine answers within this. */
const healthyWithinMs = 30_000;

interface Running {
  process: ChildProcess;
  workload: Workload;
  ports: Map<string, { host: string; port: number }>;
  /** The last of what it wrote, for messages. */
  output: string;
}

export interface ScriptedRuntime extends Runtime {
  /** Kills the processes of a deployment, as a crash does, and waits for their end. */
  crash(deploymentId: string): Promise<void>;
  /** Starts them again, with the same ports and volumes. */
  restart(deploymentId: string): Promise<void>;
  /** Sends SIGTERM and returns the exit code. */
  terminate(deploymentId: string): Promise<number | null>;
  processId(deploymentId: string): number;
  output(deploymentId: string): string;
}

export async function startScriptedRuntime(): Promise<ScriptedRuntime> {
  const root = await mkdtemp(join(tmpdir(), "bowline-dp-"));
  const running = new Map<string, Running>();
  const never = (): never => {
    throw new Error("a data plane asks for no such thing");
  };

  async function launch(deploymentId: string, workload: Workload, ports: Running["ports"]): Promise<Running> {
    const folder = join(root, deploymentId, "instance");
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    for (const { source, path } of workload.mounts) {
      if (source.case !== "volume") return never();
      await mkdir(join(root, deploymentId, "volumes", source.value), { recursive: true });
      await symlink(join(root, deploymentId, "volumes", source.value), join(folder, path));
    }
    const environment: Record<string, string> = { PATH: process.env["PATH"] ?? "", ...workload.environment };
    for (const [name, { port }] of ports) {
      environment[`BOWLINE_PORT_${name.toUpperCase().replaceAll("-", "_")}`] = String(port);
    }
    const [program, ...args] = [...workload.command, ...workload.args];
    const child = spawn(program!, args, { cwd: folder, env: environment, stdio: ["ignore", "pipe", "pipe"] });
    const instance: Running = { process: child, workload, ports, output: "" };
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        instance.output = (instance.output + text).slice(-20_000);
      });
    }
    running.set(deploymentId, instance);
    return instance;
  }

  async function healthy({ process: child, workload, ports, ...rest }: Running): Promise<ConvergeEnd> {
    const probe = workload.healthCheck?.probe;
    if (probe?.case !== "http") return { kind: "succeeded" };
    const until = performance.now() + healthyWithinMs;
    while (performance.now() < until && child.exitCode === null && child.signalCode === null) {
      if (await answers(ports.get(probe.value.port)!, probe.value.path)) return { kind: "succeeded" };
      await pause(20);
    }
    return { kind: "failed", reason: "START_FAILED", message: rest.output, worthRetry: true };
  }

  async function end(deploymentId: string, signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    const instance = running.get(deploymentId);
    if (instance === undefined) return null;
    const { process: child } = instance;
    if (child.exitCode === null && child.signalCode === null) {
      const exit = once(child, "exit");
      child.kill(signal);
      await exit;
    }
    return child.exitCode;
  }

  return {
    describe: async () => ({
      kind: "local",
      version: "0",
      identity: "scripted",
      capabilities: [],
      instanceLimit: 0,
      problem: "",
    }),
    async converge(spec: Deployment) {
      await end(spec.id, "SIGTERM");
      const ports: Running["ports"] = new Map(running.get(spec.id)?.ports);
      const workload = spec.workloads[0]!;
      for (const port of workload.ports) {
        const fixed = port.published === 0 ? ports.get(port.name)?.port : port.published;
        ports.set(port.name, { host: port.hostAddress || "127.0.0.1", port: fixed ?? (await freePort()) });
      }
      return healthy(await launch(spec.id, workload, ports));
    },
    list: never,
    watch: never,
    upstream: async (deploymentId, _workload, port) => running.get(deploymentId)?.ports.get(port),
    volumePath: async (deploymentId, volume) => join(root, deploymentId, "volumes", volume),
    logs: never,
    exec: never,
    async close() {
      for (const id of running.keys()) await end(id, "SIGKILL");
      await rm(root, { recursive: true, force: true });
    },
    async crash(deploymentId) {
      await end(deploymentId, "SIGKILL");
    },
    async restart(deploymentId) {
      const { workload, ports } = running.get(deploymentId)!;
      await healthy(await launch(deploymentId, workload, ports));
    },
    terminate: (deploymentId) => end(deploymentId, "SIGTERM"),
    processId: (deploymentId) => running.get(deploymentId)!.process.pid!,
    output: (deploymentId) => running.get(deploymentId)!.output,
  };
}

function answers({ host, port }: { host: string; port: number }, path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const req = request({ host, port, path: path || "/", agent: false }, (res) => {
      res.resume();
      resolve(res.statusCode! >= 200 && res.statusCode! < 400);
    });
    req.on("error", () => resolve(false));
    req.end();
  });
}
