/**
 * A process that hosts a Docker runtime, for tests that kill one:
 *
 *     runtime-host.ts <options as JSON> <specs as JSON> [crash point]
 *
 * Converges the specs, writes how the last one ended as a line of JSON, and stays.
 */
import { fromJson } from "@bufbuild/protobuf";
import { createDockerRuntime } from "@bowline/agent-docker";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { configureFaults } from "@bowline/kernel";

const [options = "", specs = "", fault] = process.argv.slice(2);
configureFaults(fault, () => {
  process.kill(process.pid, "SIGKILL");
  throw new Error("killed"); // not reached
});
const say = (facts: Record<string, unknown>, message: string) => console.error(message, JSON.stringify(facts));
const runtime = await createDockerRuntime({ ...JSON.parse(options), log: { info: say, warn: say, error: say } });
let end: unknown;
for (const spec of JSON.parse(specs)) {
  end = await runtime.converge(fromJson(DeploymentSchema, spec), () => {}, new AbortController().signal);
}
console.log(JSON.stringify(end));
setInterval(() => {}, 1 << 30); // stays until it is killed
