import { expect, test } from "@jest/globals";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Deployment, Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { type HostRight, impliedDenials } from "@bowline/kernel";
import { withDenials } from "./denials.ts";
import type { ExecOutput, Runtime } from "./runtime.ts";

/** Notes what reaches it. */
function scripted() {
  const reached: string[] = [];
  const runtime: Runtime = {
    describe: async () => ({
      ...{ kind: "docker", version: "1", identity: "x", instanceLimit: 0, problem: "" },
      capabilities: ["images", "exec", "host-paths", "foreign-containers"],
    }),
    converge: async ({ id }) => {
      reached.push(id);
      return { kind: "succeeded" };
    },
    list: async () => [],
    watch: async () => {},
    upstream: async () => undefined,
    volumePath: async () => undefined,
    logs: async function* () {},
    exec: async function* () {
      yield { kind: "exit", code: 0 };
    },
    foreignContainers: async () => ({ kind: "listed", containers: [] }),
    close: async () => {},
  };
  return { runtime, reached };
}

type Init = MessageInitShape<typeof DeploymentSchema>;

const spec = (more: Init): Deployment => create(DeploymentSchema, { id: "deployment_a", generation: 1, ...more });
const workload = (more: NonNullable<Exclude<Init, Deployment>["workloads"]>[number]): Init => ({
  workloads: [{ name: "web", image: "i", ...more }],
});
const converge = async (denied: HostRight[], given: Init) => {
  const { runtime, reached } = scripted();
  const guarded = withDenials(runtime, impliedDenials(denied));
  return { end: await guarded.converge(spec(given), () => {}, new AbortController().signal), reached };
};

const wishes: [right: HostRight, wish: Init, said: string][] = [
  ["privileged", workload({ container: { privileged: true } }), "workload web wants to be privileged"],
  ["host-network", workload({ container: { networkMode: "host" } }), "networkMode host"],
  ["host-network", { networks: [{ name: "n", externalName: "host" }] }, "network n wants host"],
  ["host-namespaces", workload({ container: { pidMode: "host" } }), "pidMode host"],
  ["capabilities", workload({ container: { capAdd: ["SYS_ADMIN"] } }), "capAdd SYS_ADMIN"],
  ["devices", workload({ container: { devices: ["/dev/kvm"] } }), "devices /dev/kvm"],
  ["security-options", workload({ container: { securityOptions: ["seccomp=unconfined"] } }), "seccomp=unconfined"],
  ["sysctls", workload({ container: { sysctls: { "kernel.panic": "1" } } }), "sysctls kernel.panic"],
  [
    "host-paths",
    workload({ mounts: [{ source: { case: "hostPath", value: "/etc" }, path: "/e" }] }),
    "the host's /etc",
  ],
  [
    "host-paths",
    { volumes: [{ name: "v", driverOptions: { type: "none", o: "bind", device: "/root" } }] },
    "volume v wants the host's /root",
  ],
  ["externals", { volumes: [{ name: "v", externalName: "theirs" }] }, "the host's theirs"],
  ["drivers", { networks: [{ name: "n", driver: "macvlan" }] }, "driver macvlan"],
  ["published-ports", workload({ ports: [{ container: 80, published: 8080 }] }), "the host's port 8080"],
  ["published-ports", { forwards: [{ name: "http", published: 0 }] }, "a port of the host"],
];

test.each(wishes)(
  "with --deny %s a spec with %j is refused for good, and nothing of it reaches the runtime",
  async (right, wish, said) => {
    const { end, reached } = await converge([right], wish);
    expect(end).toMatchObject({ kind: "failed", reason: "DENIED_BY_HOST", worthRetry: false });
    expect(end.kind === "failed" && end.message).toContain(said);
    expect(end.kind === "failed" && end.message).toContain(`--deny ${right}`);
    expect(reached).toEqual([]);
    expect((await converge([], wish)).reached).toEqual(["deployment_a"]);
  },
);

test("what takes away is never refused, and neither is what wants nothing that is denied", async () => {
  const privileged = workload({ container: { privileged: true } });
  for (const desired of [Deployment_Desired.ABSENT, Deployment_Desired.STOPPED])
    expect((await converge(["privileged"], { ...privileged, desired } as Init)).end).toEqual({ kind: "succeeded" });
  const paused = await converge(["privileged"], { ...privileged, desired: Deployment_Desired.PAUSED } as Init);
  expect(paused.end).toMatchObject({ reason: "DENIED_BY_HOST" });
  const modest = workload({ container: { readOnly: true, networkMode: "none" }, ports: [{ container: 80 }] });
  expect((await converge(["privileged", "published-ports", "host-network"], modest)).end.kind).toBe("succeeded");
});

test("privileged containers are refused where a part of what they get is denied", async () => {
  const { end } = await converge(["host-paths"], workload({ container: { privileged: true } }));
  expect(end).toMatchObject({ reason: "DENIED_BY_HOST" });
});

test("programs of people are refused with exec denied, and the server is told what is", async () => {
  const { runtime } = scripted();
  const guarded = withDenials(runtime, impliedDenials(["exec", "foreign-containers", "host-paths"]));
  const said: ExecOutput[] = [];
  const asked = { command: ["sh"], tty: false };
  for await (const output of guarded.exec(
    "d",
    "web",
    0,
    asked,
    (async function* () {})(),
    new AbortController().signal,
  ))
    said.push(output);
  expect(said).toMatchObject([{ kind: "refused", reason: "DENIED_BY_HOST" }]);
  expect((await guarded.describe()).capabilities).toEqual([
    ...["images", "denies/exec", "denies/foreign-containers", "denies/host-paths", "denies/privileged"],
  ]);
  expect(withDenials(runtime, new Set())).toBe(runtime);
});

test("the list of others' containers is refused where it is denied, and is not made up where the runtime has none", async () => {
  const { runtime } = scripted();
  const { signal } = new AbortController();
  const list = (denied: HostRight, of: Runtime) => withDenials(of, new Set([denied])).foreignContainers?.(signal);
  expect(await list("foreign-containers", runtime)).toMatchObject({ kind: "refused", reason: "DENIED_BY_HOST" });
  expect(await list("exec", runtime)).toEqual({ kind: "listed", containers: [] });
  delete runtime.foreignContainers;
  expect(list("exec", runtime)).toBeUndefined();
});
