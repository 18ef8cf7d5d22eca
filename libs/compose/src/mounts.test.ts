import { expect, test } from "@jest/globals";
import type { Service } from "./model.ts";
import { parseCompose, type ComposeInput, type ParsedStack } from "./parse.ts";

function parse(text: string, more: Partial<ComposeInput> = {}): ParsedStack {
  return parseCompose({ name: "x", files: [{ name: "compose.yaml", text }], ...more });
}

/** One service with these keys. */
function service(keys: string, more: Partial<ComposeInput> = {}, rest = ""): Service {
  const { stack, errors } = parse(
    `services:\n  web:\n    image: nginx\n${keys.replaceAll(/^/gm, "    ")}\n${rest}`,
    more,
  );
  expect(errors).toEqual([]);
  const found = stack?.services.find(({ name }) => name === "web");
  if (found === undefined) throw new Error("no service");
  return found;
}

function faults(keys: string, more: Partial<ComposeInput> = {}, rest = ""): string[] {
  const text = `services:\n  web:\n    image: nginx\n${keys.replaceAll(/^/gm, "    ")}\n${rest}`;
  return parse(text, more).errors.map(({ reason, path }) => `${reason} ${path}`);
}

const port = (container: number, published: number, protocol = "tcp", hostAddress = "") => ({
  container,
  published,
  protocol,
  hostAddress,
});

test.each([
  ["3000", [port(3000, 0)]],
  ["8000:80", [port(80, 8000)]],
  ["3000-3002", [port(3000, 0), port(3001, 0), port(3002, 0)]],
  ["9090-9091:8080-8081", [port(8080, 9090), port(8081, 9091)]],
  ["127.0.0.1:8001:8001", [port(8001, 8001, "tcp", "127.0.0.1")]],
  ["127.0.0.1:5000-5001:5010-5011", [port(5010, 5000, "tcp", "127.0.0.1"), port(5011, 5001, "tcp", "127.0.0.1")]],
  ["127.0.0.1::80", [port(80, 0, "tcp", "127.0.0.1")]],
  ["6060:6060/udp", [port(6060, 6060, "udp")]],
  ["[::1]:6001:6001", [port(6001, 6001, "tcp", "::1")]],
  [":80", [port(80, 0)]],
])("the port %s is read", (text, expected) => {
  expect(service(`ports: ["${text}"]`).ports).toEqual(expected);
});

test("the long form of a port, and a number", () => {
  expect(
    service("ports:\n  - 80\n  - {name: web, target: 80, published: '8080', host_ip: 127.0.0.1, protocol: udp}").ports,
  ).toEqual([port(80, 0), { name: "web", ...port(80, 8080, "udp", "127.0.0.1") }]);
});

test.each([
  "80:80:80:80",
  "a:80",
  "80/sctp",
  "70000",
  "0",
  "80-70:80-70",
  "8000-8001:80",
  "1.2.3.400:80:80",
  "8000-9999:8000-9999",
  "",
])("the port %j is refused", (text) => {
  expect(faults(`ports: ["${text}"]`)).toEqual(["VALUE_INVALID services.web.ports[0]"]);
});

test("one port of a host is published once", () => {
  expect(faults("ports: ['80:80', '80:81']")).toEqual(["CONFLICT services.web.ports[1]"]);
  expect(faults("ports: ['80:80', '80:80/udp', '127.0.0.1:80:81']")).toEqual([]);
});

test("mounts: named, anonymous, tmpfs, in both forms", () => {
  const keys = `volumes:
  - data:/data
  - data:/ro:ro,nocopy
  - /anonymous
  - {type: volume, source: data, target: /long, read_only: true, volume: {nocopy: true}}
  - {type: tmpfs, target: /tmp1, tmpfs: {size: 1m, mode: 01777}}
tmpfs: ['/tmp2:size=64k,mode=700', /tmp3]`;
  expect(service(keys, {}, "volumes: {data: }").mounts).toEqual([
    { kind: "volume", volume: "data", target: "/data", readOnly: false },
    { kind: "volume", volume: "data", target: "/ro", readOnly: true },
    { kind: "volume", volume: "", target: "/anonymous", readOnly: false },
    { kind: "volume", volume: "data", target: "/long", readOnly: true },
    { kind: "tmpfs", target: "/tmp1", sizeBytes: 1048576, mode: 0o1777 },
    { kind: "tmpfs", target: "/tmp2", sizeBytes: 65536, mode: 0o700 },
    { kind: "tmpfs", target: "/tmp3" },
  ]);
});

test.each([
  ["volumes: ['a:relative']", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['a:/x/../../y']", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['a:/x:rshared']", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['a:/x:ro,subpath=b']", "VALUE_INVALID services.web.volumes[0]"],
  [
    "volumes: [{type: bind, source: /a, target: /x, bind: {propagation: rshared}}]",
    "VALUE_INVALID services.web.volumes[0]",
  ],
  ["volumes: [':/x']", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['a:/']", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['/x', 'a:/x/']", "CONFLICT services.web.volumes[1]"],
  ["volumes: [{type: npipe, source: a, target: /a}]", "VALUE_INVALID services.web.volumes[0]"],
  ["volumes: ['none:/x']", "REFERENCE_UNKNOWN services.web.volumes[0]"],
  ["volumes: ['./here:/x']", "HOST_PATH_RELATIVE services.web.volumes[0]"],
  ["volumes: ['.here:/x']", "HOST_PATH_RELATIVE services.web.volumes[0]"],
  ["volumes: ['~/here:/x']", "HOST_PATH_RELATIVE services.web.volumes[0]"],
  ["volumes: ['C:\\here:/x']", "HOST_PATH_RELATIVE services.web.volumes[0]"],
])("%s is refused", (keys, fault) => {
  expect(faults(keys, {}, "volumes: {a: }")).toEqual([fault]);
});

test("options of mounts that change nothing pass, those that are lost are told; what an engine does anyway is not", () => {
  const told = (keys: string) =>
    parse(`services:\n  web:\n    image: nginx\n    ${keys}`).warnings.map(({ path, message }) => `${path} ${message}`);
  expect(
    told("volumes: ['/a:/b:ro,rprivate', {type: bind, source: /a, target: /c, bind: {propagation: private}}]"),
  ).toEqual([]);
  expect(
    told("volumes: ['/a:/b:roz', '/a:/c:ro,rslave', {type: bind, source: /a, target: /d, bind: {propagation: slave}}]"),
  ).toEqual([
    'services.web.volumes[0] "roz", which is no option of a mount, has no effect',
    ...["[1] the propagation rslave", "[2] the propagation slave"].map(
      (what) => `services.web.volumes${what} (what the host mounts there later is not seen inside) has no effect`,
    ),
  ]);
  expect(told("ports: [{target: 80, published: '80', mode: host}]")).toEqual([]);
  expect(told("ports: [{target: 80, published: '80', mode: ingress}]")).toEqual([
    "services.web.ports[0].mode mode has no effect here",
  ]);
  expect(told("runtime: runc")).toEqual([]);
  expect(faults("runtime: nvidia")).toEqual(["UNSUPPORTED_KEY services.web.runtime"]);
});

test("a host path that cannot be says why: a home folder, a variable that is empty", () => {
  const [home, empty] = parse("services: {web: {image: i, volumes: ['~/x:/x', '${NO}:/y']}}").errors;
  expect(home).toMatchObject({ reason: "HOST_PATH_RELATIVE", advice: expect.stringContaining("/home/") });
  expect(empty?.message).toContain("a variable may be empty");
});

test("a relative bind mount whose files came with the stack becomes configs", () => {
  const contents = { "nginx.conf": "events {}", "conf/a.ini": "a", "conf/sub/b.ini": "b" };
  const text =
    "services: {web: {image: i, volumes: ['./nginx.conf:/etc/nginx.conf', './conf:/conf:ro', './data:/data']}}";
  const { stack, errors, missing } = parse(text, { contents });
  expect(stack).toBeUndefined();
  expect(errors.map(({ path }) => path)).toEqual(["services.web.volumes[2]"]);
  expect(missing).toEqual(["./data"]);
  const again = parse(text.replace(", './data:/data'", ""), { contents });
  expect(again.stack?.services[0]?.configs).toEqual([
    { source: "nginx.conf", target: "/etc/nginx.conf", mode: 0o555 },
    { source: "conf-a.ini", target: "/conf/a.ini", mode: 0o555 },
    { source: "conf-sub-b.ini", target: "/conf/sub/b.ini", mode: 0o555 },
  ]);
  expect(again.stack?.configs.map(({ name }) => name)).toEqual(["conf-a.ini", "conf-sub-b.ini", "nginx.conf"]);
  expect(again.warnings).toMatchObject([{ reason: "VALUE_IGNORED", path: "services.web.volumes[0]" }]);
});
