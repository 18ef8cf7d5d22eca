/**
 * Forwarders as containers of their own, as where the agent is no process of
 * the engine's host. The agent as a container: deploy.test.ts.
 */
import { once } from "node:events";
import { createConnection, createServer, type AddressInfo, type Socket } from "node:net";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { createDockerRuntime } from "@bowline/agent-docker";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { atEnd, testDocker, until } from "@bowline/testing";
import { describeForwarders } from "../conformance/runtimes/suite/index.ts";
import { busybox } from "./beside.ts";
import { importForwarder } from "./forwarder-image.ts";
import { dockerPlace, forwardersOf } from "./runtime-place.ts";

const forwarderImage = "suite/forwarder:1";

const docker = await testDocker();
await importForwarder(docker, forwarderImage);

describeForwarders(
  "forwarders in containers",
  { place: () => dockerPlace(forwarderImage) },
  { forwarding: ["forwarder.before-signal", "docker.after-forwards"] },
);

/** The tests' engine by TCP. */
async function byTcp(): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const engine = createConnection({ path: docker.host.replace("unix://", ""), allowHalfOpen: true });
    for (const [from, to] of [
      [client, engine],
      [engine, client],
    ] as const) {
      sockets.add(from);
      from.pipe(to);
      from.on("error", () => {}).once("close", () => to.destroy());
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  atEnd(async () => {
    server.close();
    for (const socket of sockets) socket.destroy();
    await until(() => [...sockets].every(({ closed }) => closed), { what: "what led to the engine is closed" });
  });
  return `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("with an engine elsewhere ports are held there; an agent of another version replaces the forwarder, and its double; one without the image says so and leaves it", async () => {
  await docker.importBusybox(busybox);
  const place = await dockerPlace();
  atEnd(() => place.remove());
  const said: unknown[] = [];
  const open = async (host: string, image: string) => {
    const say = (facts: unknown, message: string): void => void said.push([message, facts]);
    const log = { info: say, warn: say, error: say };
    const runtime = await createDockerRuntime({ dataDir: place.dataDir, engine: { host }, forwarderImage: image, log });
    atEnd(() => runtime.close({ stopWorkloads: true }));
    return runtime;
  };
  const id = "deployment_elsewhere";
  const command = ["sh", "-c", "mkdir -p /tmp/www; echo here > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"];
  const spec = (desired: Deployment_Desired) =>
    create(DeploymentSchema, {
      ...{ id, generation: desired, desired },
      workloads: [{ name: "web", image: busybox, command, ports: [{ name: "http", container: 8080 }] }],
      forwards: [{ name: "http", backends: [{ workload: "web", port: "http" }] }],
    });
  const converge = (runtime: Awaited<ReturnType<typeof open>>, desired: Deployment_Desired) =>
    runtime.converge(spec(desired), () => {}, new AbortController().signal);

  const elsewhere = await open(await byTcp(), forwarderImage);
  expect(await converge(elsewhere, Deployment_Desired.RUNNING)).toEqual({ kind: "succeeded" });
  const [observed] = await elsewhere.list();
  const port = observed?.instances[0]?.ports[0]?.published;
  const answers = async (): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: "close" } });
    return (await response.text()).trim();
  };
  expect(await until(answers, { withinMs: 30_000 })).toBe("here");
  await elsewhere.close({ stopWorkloads: false });

  const [first] = await forwardersOf(docker, id);
  const like = { Image: forwarderImage, Labels: first?.Labels, HostConfig: { NetworkMode: "host" } };
  await docker.ask("POST", "/containers/create", { ...like, Cmd: ["node"] }); // of an agent that died over it
  await docker.ask("POST", `/commit?container=${first?.Id}&repo=suite/forwarder&tag=2`, {});
  const next = await open(docker.host, "suite/forwarder:2");
  const isReplaced = async (): Promise<boolean> => {
    const [only, ...others] = await forwardersOf(docker, id);
    return others.length === 0 && only?.State === "running" && only.Id !== first?.Id;
  };
  await until(isReplaced, { withinMs: 60_000, what: "one forwarder runs in the place of both" });
  expect(await until(answers, { withinMs: 30_000 })).toBe("here");
  await next.close({ stopWorkloads: false });

  const without = await open(docker.host, "suite/nowhere:1");
  expect((await without.describe()).capabilities).not.toContain("forwards");
  expect(JSON.stringify(said)).toContain("has no image suite/nowhere:1");
  expect(await answers()).toBe("here");
  expect(await converge(without, Deployment_Desired.ABSENT)).toEqual({ kind: "succeeded" });
  expect(await forwardersOf(docker, id)).toEqual([]);
});
