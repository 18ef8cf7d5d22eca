import { expect, test } from "@jest/globals";
import { denialsOf, deniedCapabilities, impliedDenials, rightsOfContainer, rightsOfVolume } from "./host-rights.ts";

test("what an agent tells that it denies is what the server reads, and unknown words of newer agents deny nothing", () => {
  const denied = impliedDenials(["exec", "devices"]);
  expect(deniedCapabilities(denied)).toEqual(["denies/devices", "denies/exec", "denies/privileged"]);
  expect(denialsOf(["images", "denies/moon", ...deniedCapabilities(denied)])).toEqual(denied);
});

test("whoever denies what privileged containers have denies those; who denies the rest does not", () => {
  expect(impliedDenials(["host-paths"]).has("privileged")).toBe(true);
  expect(impliedDenials(["exec", "foreign-containers", "published-ports", "externals"]).has("privileged")).toBe(false);
});

test.each([
  [{}, []],
  [{ networkMode: "none", ipcMode: "private", logDriver: "json-file", sysctls: { "net.core.somaxconn": "1" } }, []],
  [{ securityOptions: ["no-new-privileges:true"] }, []],
  [{ privileged: true }, ["privileged privileged"]],
  [{ networkMode: "host" }, ["host-network host"]],
  [{ networkMode: "container:theirs" }, ["host-network container:theirs"]],
  [
    { pidMode: "host", ipcMode: "container:x", cgroupParent: "/" },
    ["host-namespaces host", "host-namespaces /", "host-namespaces container:x"],
  ],
  [{ capAdd: ["A", "B"], devices: ["/dev/kvm"] }, ["capabilities A", "capabilities B", "devices /dev/kvm"]],
  [
    { securityOptions: ["seccomp:unconfined"], sysctls: { "kernel.panic": "1" }, logDriver: "syslog" },
    ["security-options seccomp:unconfined", "sysctls kernel.panic", "drivers syslog"],
  ],
])("a container with %j wants of its host: %j", (wish, wanted) => {
  expect(rightsOfContainer(wish).map(({ right, value }) => `${right} ${value}`)).toEqual(wanted);
});

test.each([
  ["", {}, []],
  ["local", { type: "tmpfs", device: "tmpfs", o: "size=1m,noexec" }, []],
  ["local", { type: "tmpfs", device: "/etc", o: "bind" }, ["host-paths /etc", "drivers local:tmpfs"]],
  ["", { type: "none", o: "bind", device: "/root" }, ["host-paths /root"]],
  ["", { DEVICE: "/dev/sda1", Type: "ext4" }, ["host-paths /dev/sda1", "drivers local:ext4"]],
  ["", { TYPE: "tmpfs", O: "size=1m", type: "none", o: "bind", device: "/" }, ["host-paths /", "drivers local:tmpfs"]],
  [
    "",
    { TYPE: "nfs", type: "none", Device: ":/x", device: "/etc" },
    ["host-paths :/x", "host-paths /etc", "drivers local:nfs"],
  ],
  ["local", { type: "nfs", device: ":/x", o: "addr=10.0.0.1" }, ["drivers local:nfs"]],
  ["rexray", {}, ["drivers rexray"]],
])("a volume of the driver %j with %j wants of its host: %j", (driver, options, wanted) => {
  const given: Record<string, string> = options;
  expect(rightsOfVolume(driver, given).map(({ right, value }) => `${right} ${value}`)).toEqual(wanted);
});
