/** What a spec says of containers, as the engine has made them. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { ContainerOptions_PullPolicy, Deployment_Desired } from "@bowline/contract/deployments";
import { atEnd, temporaryFolder } from "@bowline/testing";
import { besideEngine, busybox, idle, type WorkloadInit } from "./beside.ts";

const succeeded = { kind: "succeeded" };
const web = { name: "web", image: busybox, command: idle };

test("what a process is and may: user, groups, terminal, init, names, limits, capabilities, kernel parameters", async () => {
  const { run, containers, exec } = await besideEngine();
  const container = {
    ...{
      user: "1000:1001",
      groups: ["1002"],
      tty: true,
      stdinOpen: true,
      init: false,
      hostname: "shop",
      domainname: "test",
    },
    extraHosts: ["db=192.0.2.7", "six=2001:db8::7"],
    ...{ dns: ["192.0.2.53"], dnsSearch: ["shop.test"], dnsOptions: ["ndots:2"] },
    ulimits: { nofile: { soft: 100n, hard: 200n } },
    ...{ shmBytes: 1_048_576n, pidsLimit: 50, memoryReservationBytes: 8_388_608n },
    sysctls: { "net.ipv4.ip_unprivileged_port_start": "80" },
    ...{ capDrop: ["ALL"], capAdd: ["CHOWN"], securityOptions: ["no-new-privileges"] },
    ...{ ipcMode: "shareable", logOptions: { "max-size": "64k", "max-file": "3" } },
  };
  const resources = { cpuMillis: 500, memoryBytes: 33_554_432n };
  expect(await run([{ ...web, container, resources, labels: { tier: "front" } }], { labels: { team: "a" } })).toEqual(
    succeeded,
  );
  const [made] = await containers();
  expect(made.Config).toMatchObject({
    ...{ User: "1000:1001", Tty: true, OpenStdin: true, Hostname: "shop", Domainname: "test" },
    Labels: { tier: "front", team: "a" },
  });
  expect(made.HostConfig).toMatchObject({
    ...{ GroupAdd: ["1002"], Dns: ["192.0.2.53"], DnsSearch: ["shop.test"], DnsOptions: ["ndots:2"] },
    ExtraHosts: ["db:192.0.2.7", "six:2001:db8::7"],
    Ulimits: [{ Name: "nofile", Soft: 100, Hard: 200 }],
    ...{ ShmSize: 1_048_576, PidsLimit: 50, MemoryReservation: 8_388_608, Memory: 33_554_432, NanoCpus: 500_000_000 },
    ...{ CapDrop: ["ALL"], CapAdd: ["CHOWN"], SecurityOpt: ["no-new-privileges"], IpcMode: "shareable" },
    LogConfig: { Type: "json-file", Config: { "max-size": "64k", "max-file": "3" } },
  });
  const said = await exec(
    made.Id,
    "sh",
    "-c",
    "id; ulimit -n; hostname; cat /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
  );
  expect(said).toMatch(/uid=1000 gid=1001 groups=.*1002/);
  expect(said).toMatch(/\n100\r?\nshop\r?\n/);
  expect(said).toContain("192.0.2.7\tdb");
  expect(said).toMatch(/\n80$/);
});

test("what it sees: a read-only root, memory, volumes, paths of the host, devices, the host's own names", async () => {
  const { run, containers, exec } = await besideEngine({ allowHostPaths: true });
  const shared = temporaryFolder();
  writeFileSync(join(shared, "given"), "from the host");
  const end = await run(
    [
      {
        ...web,
        mounts: [
          { path: "/data", source: { case: "volume", value: "data" } },
          { path: "/fixed", source: { case: "volume", value: "data" }, readOnly: true },
          { path: "/memory", source: { case: "tmpfs", value: { sizeBytes: 1_048_576n, mode: 0o700 } } },
          { path: "/host", source: { case: "hostPath", value: shared }, readOnly: true },
          { path: "/made", source: { case: "hostPath", value: join(shared, "made") }, createHostPath: true },
        ],
        container: {
          readOnly: true,
          init: false,
          devices: ["/dev/null:/dev/nothing:r"],
          pidMode: "host",
          utsMode: "host",
        },
      },
    ],
    { volumes: [{ name: "data", driver: "local", driverOptions: { type: "tmpfs", device: "tmpfs", o: "size=1m" } }] },
  );
  expect(end).toEqual(succeeded);
  const [made] = await containers();
  const said = await exec(
    made.Id,
    "sh",
    "-c",
    "touch /no; touch /data/yes && ls /fixed; touch /fixed/no; cat /host/given; touch /host/no; ls -d /made; df -k /memory | tail -1; ls -ld /memory; ls /dev/nothing",
  );
  expect(said).toContain("touch: /no: Read-only file system");
  expect(said).toContain("touch: /fixed/no: Read-only file system");
  expect(said).toContain("touch: /host/no: Read-only file system");
  expect(said).toMatch(/yes\r?\n/);
  expect(said).toContain("from the host");
  expect(said).toMatch(/tmpfs +1024 /);
  expect(said).toMatch(/drwx------ .*\/memory/);
  expect(said).toContain("/dev/nothing");
  expect(made.HostConfig).toMatchObject({ PidMode: "host", UTSMode: "host" });
  // Made and not started: not every machine may have such.
  const strong = { privileged: true, init: true, networkMode: "none", usernsMode: "host", cgroupParent: "/options" };
  expect(await run([{ ...web, container: strong }], { desired: Deployment_Desired.STOPPED })).toEqual(succeeded);
  const [stopped] = await containers();
  expect(stopped.HostConfig).toMatchObject({
    ...{ Privileged: true, Init: true, NetworkMode: "none", UsernsMode: "host", CgroupParent: "/options" },
  });
});

test("a volume may be inside another one, as Compose files have it; a file inside a volume would be kept by it", async () => {
  const { run, containers, exec } = await besideEngine();
  const volume = (path: string, value: string) => ({ path, source: { case: "volume" as const, value } });
  const outer = volume("/srv", "site");
  const mounts = [volume("/srv/files/media", "media"), outer];
  const volumes = [{ name: "site" }, { name: "media" }];
  expect(await run([{ ...web, mounts }], { volumes })).toEqual(succeeded);
  const [made] = await containers();
  const said = await exec(
    made.Id,
    "sh",
    "-c",
    "touch /srv/one /srv/files/media/two; ls -1 /srv/one /srv/files/media/two; grep -c ' /srv' /proc/mounts",
  );
  expect(said).toMatch(/^\/srv\/files\/media\/two\s+\/srv\/one\s+2$/);
  const file = { path: "/srv/config", source: { case: "file" as const, value: "config" } };
  expect(
    await run([{ ...web, mounts: [outer, file] }], { volumes, files: [{ name: "config", content: Buffer.from("x") }] }),
  ).toMatchObject({
    kind: "failed",
    reason: "UNSUPPORTED",
    message: expect.stringContaining("mounts inside one another"),
  });
});

test("files have their owner and mode, and a secret is one of them", async () => {
  const { run, containers, exec } = await besideEngine({
    openSecret: (sealed) => Promise.resolve(Buffer.from(`opened ${sealed}`)),
  });
  const mount = (value: string, path: string) => ({ path, source: { case: "file" as const, value } });
  const end = await run(
    [
      {
        ...web,
        mounts: [mount("plain", "/etc/app/plain"), mount("owned", "/etc/app/owned"), mount("key", "/run/secrets/key")],
      },
    ],
    {
      files: [
        { name: "plain", content: Buffer.from("a file") },
        { name: "owned", content: Buffer.from("another"), uid: "1000", gid: "1001", mode: 0o660 },
        { name: "key", secret: "password", uid: "1000", mode: 0o400 },
      ],
      sealedSecrets: { password: "sealed" },
    },
  );
  expect(end).toEqual(succeeded);
  const [made] = await containers();
  const said = await exec(
    made.Id,
    "sh",
    "-c",
    "stat -c '%n %u:%g %a' /etc/app/* /run/secrets/key; cat /run/secrets/key",
  );
  expect(said.split(/\r?\n/)).toEqual([
    "/etc/app/owned 1000:1001 440",
    "/etc/app/plain 0:0 444",
    "/run/secrets/key 1000:0 400",
    "opened sealed",
  ]);
  expect(JSON.stringify(made)).not.toContain("opened");
});

test("several networks with aliases, one of them and a volume somebody else's, which outlive the deployment", async () => {
  const { docker, run, containers, exec } = await besideEngine();
  const outside = `outside-${process.pid}`;
  await docker.ask("POST", "/networks/create", { Name: outside });
  atEnd(() => docker.ask("DELETE", `/networks/${outside}`).then(() => undefined));
  await docker.ask("POST", "/volumes/create", { Name: outside });
  atEnd(() => docker.ask("DELETE", `/volumes/${outside}`).then(() => undefined));
  const places = {
    networks: [{ name: "front" }, { name: "back", internal: true }, { name: "theirs", externalName: outside }],
    volumes: [{ name: "theirs", externalName: outside }],
  };
  const workloads = [
    {
      ...web,
      networks: [{ network: "back", aliases: ["shop", "store"] }, { network: "theirs" }],
      mounts: [{ path: "/data", source: { case: "volume" as const, value: "theirs" } }],
    },
    { ...web, name: "other", networks: [{ network: "front" }, { network: "back" }] },
  ];
  expect(await run(workloads, places)).toEqual(succeeded);
  const all = await containers();
  const of = (name: string) => all.find(({ Config }) => Config.Labels["bowline.workload"] === name);
  const joined = of("web").NetworkSettings.Networks;
  const [back = ""] = Object.keys(joined).filter((name) => name.endsWith("-back.internal"));
  expect(Object.keys(joined).toSorted()).toEqual([back, outside].toSorted());
  expect(joined[back].Aliases).toEqual(expect.arrayContaining(["web", "shop", "store"]));
  expect(joined[outside].Aliases).toEqual(expect.arrayContaining(["web"]));
  const { IPAddress } = joined[back];
  expect(await exec(of("other").Id, "nslookup", "store")).toContain(IPAddress);
  expect(await docker.ask("GET", `/networks/${back}`)).toMatchObject({ Internal: true });
  expect(await run([], { networks: [] })).toEqual(succeeded);
  await docker.ask("GET", `/networks/${outside}`);
  await docker.ask("GET", `/volumes/${outside}`);
});

test("without a folder in memory that the engine sees too, secrets are copied into the container, and files in one with a read-only root are refused", async () => {
  const { run, containers, exec } = await besideEngine({
    openSecret: (sealed) => Promise.resolve(Buffer.from(`opened ${sealed}`)),
    memoryPlaces: [],
  });
  const mounts = [{ path: "/run/secrets/key", source: { case: "file" as const, value: "key" } }];
  const files = { files: [{ name: "key", secret: "password", mode: 0o400 }], sealedSecrets: { password: "sealed" } };
  expect(await run([{ ...web, mounts, container: { readOnly: true } }], files)).toMatchObject({
    ...{ kind: "failed", reason: "UNSUPPORTED" },
    message: expect.stringContaining("an agent that runs as root on the engine's host"),
  });
  expect(await run([{ ...web, mounts }], files)).toEqual(succeeded);
  const [made] = await containers();
  expect(made.Mounts).toEqual([]);
  expect(await exec(made.Id, "cat", "/run/secrets/key")).toContain("opened sealed");
});

test("a network that becomes internal, or another kind, is another one; the old one goes", async () => {
  const { docker, run, containers } = await besideEngine();
  const isSo = async (wanted: object) => {
    const [made] = await containers();
    const names = Object.keys(made.NetworkSettings.Networks);
    expect(names).toHaveLength(1);
    expect(await docker.ask("GET", `/networks/${names[0]}`)).toMatchObject(wanted);
    return String(names[0]);
  };
  expect(await run([web], { networks: [{ name: "back" }] })).toEqual(succeeded);
  const open = await isSo({ Internal: false });
  expect(await run([web], { networks: [{ name: "back", internal: true }] })).toEqual(succeeded);
  const closed = await isSo({ Internal: true });
  await expect(docker.ask("GET", `/networks/${open}`)).rejects.toThrow();
  expect(await run([web], { networks: [{ name: "back", internal: true, driver: "bridge" }] })).toEqual(succeeded);
  expect(await isSo({ Internal: true, Driver: "bridge" })).not.toBe(closed);
  await expect(docker.ask("GET", `/networks/${closed}`)).rejects.toThrow();
});

test("an old network that a stranger's container is in fails nothing: it goes with a later wish, once that one has left", async () => {
  const { docker, run, containers } = await besideEngine();
  expect(await run([web], { networks: [{ name: "back" }] })).toEqual(succeeded);
  const [made] = await containers();
  const [old = ""] = Object.keys(made.NetworkSettings.Networks);
  const { Id } = (await docker.ask("POST", "/containers/create", {
    ...{ Image: busybox, Cmd: idle, HostConfig: { NetworkMode: old } },
  })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/containers/${Id}?force=1`).then(() => undefined));
  await docker.ask("POST", `/containers/${Id}/start`);
  const closed = { networks: [{ name: "back", internal: true }] };
  expect(await run([web], closed)).toEqual(succeeded);
  expect(await docker.ask("GET", `/networks/${old}`)).toMatchObject({ Name: old });
  await docker.ask("POST", `/networks/${old}/disconnect`, { Container: Id });
  expect(await run([web], closed)).toEqual(succeeded);
  await expect(docker.ask("GET", `/networks/${old}`)).rejects.toThrow();
});

test("a volume that is there with other options is refused: they cannot be changed", async () => {
  const { run } = await besideEngine();
  const options = { type: "tmpfs", device: "tmpfs", o: "size=1m" };
  expect(await run([web], { volumes: [{ name: "data", driverOptions: options }] })).toEqual(succeeded);
  expect(await run([web], { volumes: [{ name: "data", driverOptions: { ...options, o: "size=2m" } }] })).toMatchObject({
    ...{ kind: "failed", reason: "VOLUME_FAILED", worthRetry: false },
    message: expect.stringMatching(/volume data: .* other options/),
  });
  expect(await run([web], { volumes: [{ name: "data", driver: "local", driverOptions: options }] })).toEqual(succeeded);
});

test("who looks at the host sees whose a container, a network and a volume is; nobody's own labels pretend to be that, and no label replaces what runs", async () => {
  const { docker, run, containers } = await besideEngine();
  const workload = (more: WorkloadInit = {}): WorkloadInit => ({
    ...{ ...web, labels: { team: "shops", "bowline.stack": "other", "bowline.slot": "x" } },
    ...more,
  });
  const volumes = [{ name: "data" }];
  expect(await run([workload()], { volumes })).toEqual(succeeded);
  const [before] = await containers();
  expect(before.Config.Labels).toMatchObject({ team: "shops", "bowline.workload": "web", "bowline.service": "web" });
  expect(before.Config.Labels["bowline.stack"]).toBeUndefined();
  expect(before.Config.Labels["bowline.slot"]).not.toBe("x");

  // As after an upgrade: what was made without them stays, what comes has them.
  const labels = { "bowline.stack": "shop", "bowline.agent": "another" };
  const green = workload({ name: "web--green", service: "web" });
  expect(await run([workload({ service: "Web" }), green], { volumes, labels })).toEqual(succeeded);
  const after = await containers();
  expect(after.find(({ Id }) => Id === before.Id)).toMatchObject({ Name: before.Name, State: before.State });
  const made = after.find(({ Id }) => Id !== before.Id);
  expect(made.Name).toMatch(/^\/bowline-shop-web--green-0-[0-9a-f]{8}$/);
  expect(made.Config.Labels).toMatchObject({
    ...{ team: "shops", "bowline.stack": "shop", "bowline.service": "web", "bowline.workload": "web--green" },
    "bowline.agent": before.Config.Labels["bowline.agent"],
  });
  expect(
    await run([workload()], { volumes: [...volumes, { name: "more" }], networks: [{ name: "own" }], labels }),
  ).toEqual(succeeded);
  const filters = encodeURIComponent(JSON.stringify({ label: ["bowline.stack=shop"] }));
  expect(await docker.ask("GET", `/volumes?filters=${filters}`)).toMatchObject({
    Volumes: [{ Labels: { "bowline.name": "more" } }],
  });
  expect(await docker.ask("GET", `/networks?filters=${filters}`)).toMatchObject([
    { Labels: { "bowline.name": "own" } },
  ]);
});

test("a network or a volume that should be there and is not is named", async () => {
  const { docker, run } = await besideEngine();
  const networks = (await docker.ask("GET", "/networks")) as { Name: string; Id: string }[];
  const id = networks.find(({ Name }) => Name === "host")?.Id ?? "";
  // Whose network it is was asked by its name.
  for (const externalName of [id, id.slice(0, 12)])
    expect(await run([web], { networks: [{ name: "theirs", externalName }] })).toMatchObject({
      kind: "failed",
      message: `network theirs: the host has no network ${externalName}`,
    });
  expect(await run([web], { networks: [{ name: "theirs", externalName: "nowhere" }] })).toMatchObject({
    kind: "failed",
    message: expect.stringContaining("network theirs: the host has no network nowhere"),
  });
  expect(await run([web], { volumes: [{ name: "theirs", externalName: "nowhere" }] })).toMatchObject({
    ...{ kind: "failed", reason: "VOLUME_FAILED" },
    message: expect.stringMatching(/volume theirs: .*nowhere/),
  });
});

test("an image's own health check counts where the spec has none, and not where it is switched off", async () => {
  const { docker, run, containers, runtime } = await besideEngine();
  const [well, ill] = ["testing/well:1", "testing/ill:1"];
  const times = "--interval=100ms --timeout=10s --retries=2";
  await docker.importBusybox(well, {}, [`HEALTHCHECK ${times} CMD ["true"]`]);
  await docker.importBusybox(ill, {}, [`HEALTHCHECK ${times} CMD ["sh", "-c", "echo not me; exit 7"]`]);
  expect(await run([{ ...web, image: well }])).toEqual(succeeded);
  expect((await runtime.list())[0]?.instances).toMatchObject([{ phase: "RUNNING", health: "HEALTHY" }]);
  expect(await run([{ ...web, image: ill }])).toMatchObject({
    ...{ kind: "failed", reason: "UNHEALTHY" },
    message: expect.stringContaining("exit code 7: not me"),
  });
  expect(await run([{ ...web, image: ill, healthCheck: { disabled: true } }])).toEqual(succeeded);
  const [made] = await containers();
  expect(made.State.Health).toBeUndefined();
  // Only times: the image's own command stays, and what it says beside them.
  expect(await run([{ ...web, image: well, healthCheck: { interval: { seconds: 1n } } }])).toEqual(succeeded);
  const [timed] = await containers();
  expect(timed.State.Health).toMatchObject({ Status: "healthy" });
  expect(timed.Config.Healthcheck).toMatchObject({ Test: ["CMD", "true"], Interval: 1e9, Timeout: 10e9, Retries: 2 });
});

test("an image that is never pulled has to be there; and a start limit is the engine's", async () => {
  const { run, containers } = await besideEngine();
  const never = { pullPolicy: ContainerOptions_PullPolicy.NEVER };
  expect(await run([{ ...web, image: "testing/nowhere:1", container: never }])).toMatchObject({
    ...{ kind: "failed", reason: "IMAGE_UNAVAILABLE", worthRetry: false },
    message: expect.stringContaining("never pulled"),
  });
  const platform = process.arch === "arm64" ? "linux/arm64" : "linux/amd64";
  const container = { ...never, platform, maxRestarts: 3 };
  expect(await run([{ ...web, container, restartPolicy: 2 }])).toEqual(succeeded);
  const [made] = await containers();
  expect(made.HostConfig.RestartPolicy).toEqual({ Name: "on-failure", MaximumRetryCount: 3 });
});
