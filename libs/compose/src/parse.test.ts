import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { Contents } from "./contents.ts";
import { MAX_SERVICES } from "./limits.ts";
import type { Service } from "./model.ts";
import { parseCompose, type ComposeInput, type ParsedStack } from "./parse.ts";
import { diagnosticLine } from "./report.ts";

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

test.each([
  ["echo hello", ["echo", "hello"]],
  ["sh -c 'a b' \"c d\" e\\ f", ["sh", "-c", "a b", "c d", "e f"]],
  ["a '' b", ["a", "", "b"]],
  [`a "b\\"c" 'd\\e'`, ["a", 'b"c', "d\\e"]],
  ["  ", []],
])("the command %j is split as a shell does", (text, expected) => {
  expect(service(`command: ${JSON.stringify(text)}`).command).toEqual(expected);
});

test("a list is a command as it is, and an empty one clears the image's", () => {
  expect(service("command: ['a b', c]\nentrypoint: []")).toMatchObject({ command: ["a b", "c"], entrypoint: [] });
  expect(service("command:").command).toBeUndefined();
  expect(faults(`command: "a 'b"`)).toEqual(["VALUE_INVALID services.web.command"]);
});

test("the environment keeps how numbers are written, and takes names alone from outside", () => {
  const keys = "environment:\n  A: 1.10\n  B: 0440\n  C: true\n  D:\n  E: 18446744073709551615\n  F: ''\n  G:";
  const { environment } = service(keys, { variables: { D: "outside" } });
  expect(environment).toEqual({ A: "1.10", B: "0440", C: "true", D: "outside", E: "18446744073709551615", F: "" });
});

test("a variable that is not set is a warning, said once", () => {
  const { warnings } = parse("services: {a: {image: 'i:$TAG', user: '$TAG', environment: [WHO]}}");
  expect(warnings.map(({ reason, path }) => `${reason} ${path}`)).toEqual([
    "VARIABLE_UNSET services.a.image",
    "VARIABLE_UNSET services.a.environment.WHO",
  ]);
});

test("of many variables that nobody sets one warning tells", () => {
  const { warnings } = parse("services: {a: {image: i, environment: [A, B, C, D, E, F, G, H=1]}}");
  expect(warnings).toMatchObject([
    {
      reason: "VARIABLE_UNSET",
      path: "services.a.environment",
      message: expect.stringContaining("A, B, C, D, E and 2 more"),
    },
  ]);
});

test("times and sizes are read with every unit that there is", () => {
  const { healthcheck, limits } = service(
    "healthcheck: {test: x, interval: 2000000ns, timeout: 3000µs, start_period: 1h1m1s}\nmem_limit: 1PiB",
  );
  expect(healthcheck).toMatchObject({ intervalMs: 2, timeoutMs: 3, startPeriodMs: 3_661_000 });
  expect(limits).toEqual({ memoryBytes: 1024 ** 5 });
});

test("env files come below the environment, in their order", () => {
  const contents = { "a.env": "A=1\nB=1\nC=${X}", ".env": "B=2\nD=2" };
  const keys = "env_file: [a.env, {path: ./.env}, {path: none.env, required: false}]\nenvironment: {D: 3}";
  expect(service(keys, { contents, variables: { X: "x" } }).environment).toEqual({ A: "1", B: "2", C: "x", D: "3" });
  expect(faults("env_file: none.env")).toEqual(["FILE_MISSING services.web.env_file[0]"]);
  expect(faults("env_file: a.env", { contents: { "a.env": "1 = 2" } })).toEqual([
    "VALUE_INVALID services.web.env_file[0]",
  ]);
});

test("an env file is read once, however its path is spelt, and its faults are each mention's", () => {
  const given = new Contents({ "./conf/a.env": "A=${X}", b: "1 = 2" });
  expect(given.envFile("conf/a.env", { X: "x" }, false)).toBe(
    given.envFile("./conf/../conf//a.env", { X: "x" }, false),
  );
  expect(given.envFile("conf/a.env", {}, true)?.get("A")).toBe("${X}");
  const text = "services: {a: {image: i, env_file: b}, c: {image: i, env_file: ./b}}";
  const { errors } = parse(text, { contents: { b: "1 = 2" } });
  expect(errors.map(({ message }) => message)).toEqual(["b: line 1 is no NAME=value", "./b: line 1 is no NAME=value"]);
});

test("few words that name a large thing often are refused before it is there so often", () => {
  const large = "x".repeat(400_000);
  const many = (keys: string) => Array.from({ length: 50 }, (_, n) => `  s${n}: {image: i, ${keys}}`).join("\n");
  const spellings = Array.from({ length: 20 }, (_, n) => `${"./".repeat(n)}e`).join(", ");
  const reasons = (text: string) =>
    parse(text, { contents: { e: `A=${large}` }, variables: { LONG: large } }).errors.map(
      ({ reason, path }) => `${reason} ${path}`,
    );
  expect(reasons(`services:\n${many(`env_file: [${spellings}]`)}`)).toEqual(["TOO_LARGE services.s0.env_file"]);
  expect(reasons(`services:\n${many("environment: [LONG]")}`)).toEqual(["TOO_LARGE services.s10.environment"]);
  expect(reasons(`x-a: &a "${large}"\nservices:\n${many("labels: {a: *a}")}`)).toEqual([
    "TOO_LARGE services.s9.labels.a",
  ]);
  expect(reasons(`services:\n  b: {image: i, labels: {a: "${large}"}}\n${many("extends: b")}`)).toEqual([
    "TOO_LARGE services.s9.extends",
  ]);
  const configs = Array.from({ length: 50 }, (_, n) => `  c${n}: {file: e}`).join("\n");
  expect(reasons(`services: {a: {image: i}}\nconfigs:\n${configs}`)).toEqual(["TOO_LARGE configs.c20.file"]);
});

test.each([
  [
    "healthcheck: {test: curl -f x, interval: 1m30s, timeout: 500ms, retries: 3, start_period: 2h}",
    {
      disabled: false,
      test: { shell: true, command: ["curl -f x"] },
      intervalMs: 90_000,
      timeoutMs: 500,
      retries: 3,
      startPeriodMs: 7_200_000,
    },
  ],
  ["healthcheck: {test: [CMD, a, b]}", { disabled: false, test: { shell: false, command: ["a", "b"] } }],
  ["healthcheck: {test: [CMD-SHELL, a b]}", { disabled: false, test: { shell: true, command: ["a b"] } }],
  ["healthcheck: {test: [NONE]}", { disabled: true }],
  ["healthcheck: {disable: true}", { disabled: true }],
  ["healthcheck: {disable: '${YES}'}", { disabled: true }],
])("%s is read", (keys, expected) => {
  expect(service(keys, { variables: { YES: "yes" } }).healthcheck).toEqual(expected);
});

test.each([
  "{test: [a, b]}",
  "{test: [CMD]}",
  "{test: [CMD-SHELL]}",
  "{interval: 5}",
  "{interval: 5x}",
  "{retries: -1}",
  "{interval: 999999w}",
])("the health check %s is refused", (check) => {
  expect(faults(`healthcheck: ${check}`)[0]).toMatch(/(VALUE|SCHEMA)_INVALID services\.web\.healthcheck\./);
});

test("a shell's test in several words is taken as the shell takes it, with a warning", () => {
  const { stack, warnings } = parse("services: {a: {image: i, healthcheck: {test: [CMD-SHELL, pg_isready, -d, x]}}}");
  expect(stack?.services[0]?.healthcheck?.test).toEqual({ shell: true, command: ["pg_isready", "-d", "x"] });
  expect(warnings).toMatchObject([{ reason: "VALUE_IGNORED", path: "services.a.healthcheck.test" }]);
});

test("deploy: counts, resources, settings of rollouts, constraints", () => {
  const keys = `deploy:
  mode: global
  replicas: 3
  resources: {limits: {cpus: '0.5', memory: 512M, pids: 10}, reservations: {memory: 64m}}
  update_config: {parallelism: 2, delay: 10s, order: start-first}
  restart_policy: {condition: on-failure, max_attempts: 3}
  placement:
    constraints: [node.labels.region == eu, node.hostname != press-1, 'node.platform.arch==amd64']
    max_replicas_per_node: 1`;
  expect(service(keys)).toMatchObject({
    mode: "global",
    job: false,
    replicas: 3,
    limits: { cpuMillis: 500, memoryBytes: 512 * 1024 * 1024, pids: 10 },
    reservations: { memoryBytes: 64 * 1024 * 1024 },
    update: { parallelism: 2, delayMs: 10_000, order: "start-first" },
    restart: { policy: "on-failure", maxAttempts: 3 },
    constraints: [
      { kind: "label", label: "region", operator: "==", value: "eu" },
      { kind: "hostname", operator: "!=", value: "press-1" },
      { kind: "platform.arch", operator: "==", value: "amd64" },
    ],
    maxReplicasPerAgent: 1,
  });
});

test("the older keys of resources and counts say the same, and may not contradict", () => {
  expect(service("mem_limit: 1g\ncpus: 1.5\npids_limit: 5\nmem_reservation: 512m\nscale: 2")).toMatchObject({
    replicas: 2,
    limits: { cpuMillis: 1500, memoryBytes: 1024 ** 3, pids: 5 },
    reservations: { memoryBytes: 512 * 1024 ** 2 },
  });
  expect(faults("mem_limit: 1g\ndeploy: {resources: {limits: {memory: 2g}}}")).toEqual([
    "CONFLICT services.web.mem_limit",
  ]);
  expect(faults("scale: 1\ndeploy: {replicas: 2}")).toEqual(["CONFLICT services.web.scale"]);
});

test.each([
  ["restart: always", { policy: "always" }],
  ["restart: unless-stopped", { policy: "always" }],
  ["restart: no", { policy: "never" }],
  ["restart: on-failure:5", { policy: "on-failure", maxAttempts: 5 }],
  ["user: a", { policy: "never" }],
])("%s restarts %j", (keys, expected) => {
  expect(service(keys).restart).toEqual(expected);
});

test("a role of a swarm keeps no agent out, and that is told", () => {
  const { stack, warnings, errors } = parseCompose({
    name: "x",
    files: [
      {
        name: "f.yaml",
        text: "services: {web: {image: i, deploy: {placement: {constraints: [node.role == manager, node.labels.a == b]}}}}",
      },
    ],
  });
  expect(errors).toEqual([]);
  expect(stack?.services[0]?.constraints).toMatchObject([{ label: "a", value: "b" }]);
  expect(warnings).toMatchObject([
    { reason: "VALUE_IGNORED", path: "services.web.deploy.placement.constraints[0]", line: 1 },
  ]);
});

test.each([
  ["deploy: {mode: other}", "VALUE_INVALID services.web.deploy.mode"],
  ["deploy: {replicas: 100000}", "VALUE_INVALID services.web.deploy.replicas"],
  [
    "deploy: {placement: {constraints: [node.id == manager]}}",
    "VALUE_INVALID services.web.deploy.placement.constraints[0]",
  ],
  ["deploy: {placement: {constraints: [a]}}", "VALUE_INVALID services.web.deploy.placement.constraints[0]"],
  ["deploy: {update_config: {parallelism: -1}}", "VALUE_INVALID services.web.deploy.update_config.parallelism"],
  ["restart: sometimes", "VALUE_INVALID services.web.restart"],
  ["mem_limit: 1 apple", "VALUE_INVALID services.web.mem_limit"],
  ["cpus: 1e3x", "VALUE_INVALID services.web.cpus"],
  ["stop_grace_period: soon", "VALUE_INVALID services.web.stop_grace_period"],
  ["extra_hosts: [nothing]", "VALUE_INVALID services.web.extra_hosts[0]"],
  ["network_mode: 'service:db'", "UNSUPPORTED_VALUE services.web.network_mode"],
  ["read_only: perhaps", "VALUE_INVALID services.web.read_only"],
])("%s is refused", (keys, fault) => {
  expect(faults(keys)).toEqual([fault]);
});

test("the rest of a container", () => {
  const keys = `platform: linux/arm64
pull_policy: if_not_present
stop_signal: SIGINT
stop_grace_period: 1m
user: "1000:1000"
working_dir: /app
read_only: true
init: true
tty: true
stdin_open: true
hostname: h
domainname: d
dns: [1.1.1.1]
dns_search: a.b
dns_opt: [ndots:1]
expose: [80, "81-82/udp"]
group_add: [5, mail]
ulimits: {nproc: 65535, nofile: {soft: 1, hard: 2}}
shm_size: 64m
sysctls: [net.core.somaxconn=1024]
cap_drop: [all]
security_opt: [no-new-privileges:true]
logging: {driver: local, options: {max-size: 10m, max-file: 3}}
labels: [a=b, c]`;
  expect(service(keys)).toMatchObject({
    platform: "linux/arm64",
    pullPolicy: "missing",
    stopSignal: "SIGINT",
    stopGraceMs: 60_000,
    user: "1000:1000",
    workingDir: "/app",
    readOnly: true,
    init: true,
    tty: true,
    stdinOpen: true,
    hostname: "h",
    domainname: "d",
    dns: ["1.1.1.1"],
    dnsSearch: ["a.b"],
    dnsOptions: ["ndots:1"],
    expose: [
      { container: 80, protocol: "tcp" },
      { container: 81, protocol: "udp" },
      { container: 82, protocol: "udp" },
    ],
    groups: ["5", "mail"],
    ulimits: { nofile: { soft: 1, hard: 2 }, nproc: { soft: 65535, hard: 65535 } },
    shmBytes: 64 * 1024 ** 2,
    sysctls: { "net.core.somaxconn": "1024" },
    capDrop: ["ALL"],
    logging: { driver: "local", options: { "max-file": "3", "max-size": "10m" } },
    labels: { a: "b", c: "" },
  });
  expect(parse(`services: {web: {image: i, sysctls: {net.core.somaxconn: 1}}}`).asks).toEqual([]);
});

test("networks, aliases and links; without any the stack's own", () => {
  const { stack } = parse(`
services:
  a: {image: i, networks: {front: {aliases: [x]}, back: }, container_name: my-a}
  b: {image: i, links: ["a:db"], networks: [front]}
  c: {image: i}
  d: {image: i, network_mode: none}
networks: {front: , back: {internal: true}}
`);
  expect(stack?.services.map(({ networks, dependsOn }) => ({ networks, dependsOn }))).toEqual([
    {
      networks: [
        { network: "front", aliases: ["x", "db", "my-a"] },
        { network: "back", aliases: ["db", "my-a"] },
      ],
      dependsOn: [],
    },
    { networks: [{ network: "front", aliases: [] }], dependsOn: [{ service: "a", condition: "started" }] },
    { networks: [{ network: "default", aliases: [] }], dependsOn: [] },
    { networks: [], dependsOn: [] },
  ]);
  expect(stack?.networks.map(({ name, internal }) => [name, internal])).toEqual([
    ["back", true],
    ["default", false],
    ["front", false],
  ]);
});

test("dependencies have conditions; who is waited for to complete is a job", () => {
  const { stack } = parse(`
services:
  web: {image: i, depends_on: {db: {condition: service_healthy}, migrate: {condition: service_completed_successfully}, no: {condition: service_started, required: false}}}
  db: {image: i}
  migrate: {image: i, depends_on: [db]}
`);
  expect(stack?.services.find(({ name }) => name === "web")?.dependsOn).toEqual([
    { service: "db", condition: "healthy" },
    { service: "migrate", condition: "completed" },
  ]);
  expect(stack?.services.map(({ name, job }) => [name, job])).toEqual([
    ["db", false],
    ["migrate", true],
    ["web", false],
  ]);
});

test.each([
  [
    "services: {a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}",
    "DEPENDENCY_CYCLE services.a.depends_on",
  ],
  ["services: {a: {image: i, depends_on: [bb]}, b: {image: i}}", "REFERENCE_UNKNOWN services.a.depends_on.bb"],
  [
    "services: {a: {image: i, depends_on: [b]}, b: {image: i, profiles: [p]}}",
    "REFERENCE_DISABLED services.a.depends_on.b",
  ],
  ["services: {a: {image: i, networks: [n]}}", "REFERENCE_UNKNOWN services.a.networks.n"],
  ["services: {a: {image: i, secrets: [n]}}", "REFERENCE_UNKNOWN services.a.secrets[0]"],
  ["services: {a: {image: i, configs: [n]}}", "REFERENCE_UNKNOWN services.a.configs[0]"],
  ["services: {a: {image: i, links: [n]}}", "REFERENCE_UNKNOWN services.a.links[0]"],
  ["services: {a: {image: i, network_mode: host, networks: [n]}}\nnetworks: {n: }", "CONFLICT services.a.networks"],
  ["services: {a: {user: u}}", "IMAGE_MISSING services.a"],
  ["services: {a: {image: '-x'}}", "VALUE_INVALID services.a.image"],
  ["services: {a: {image: i, labels: [bowline.stack=b]}}", 'NAME_INVALID services.a.labels["bowline.stack"]'],
  ["services: {}", "SERVICES_MISSING services"],
  ["services: {a: {image: i, profiles: [p]}}", "SERVICES_MISSING services"],
  ["", "SERVICES_MISSING "],
  ["services: {a: {image: i}}\nsecrets: {s: {file: no.txt}}", "FILE_MISSING secrets.s.file"],
  ["services: {a: {image: i}}\nsecrets: {s: {environment: NO}}", "VARIABLE_REQUIRED secrets.s.environment"],
  ["services: {a: {image: i}}\nsecrets: {s: {file: a, environment: b}}", "CONFLICT secrets.s.environment"],
  ["services: {a: {image: i}}\nsecrets: {s: {}}", "VALUE_INVALID secrets.s"],
  ["services: {a: {image: i}}\nconfigs: {c: {external: true}}", "UNSUPPORTED_KEY configs.c.external"],
  ["services: {a: {image: i}}\nconfigs: {c: {external: {name: d}}}", "UNSUPPORTED_KEY configs.c.external"],
  ["services: {a: {image: i}}\nconfigs: {c: {external: {}}}", "VALUE_INVALID configs.c"],
  ["services: {a: {image: i}}\nsecrets: {s: {external: true}}", "EXTERNAL_MISSING secrets.s.external"],
  ["services: {a: {image: '${A'}}", "INTERPOLATION_INVALID services.a.image"],
  ["services: {a: {image: '${A:?}'}}", "VARIABLE_REQUIRED services.a.image"],
])("%s: %s", (text, fault) => {
  const { errors, stack } = parse(text, { externals: { secrets: ["other"] } });
  expect(stack).toBeUndefined();
  expect(errors.map(({ reason, path }) => `${reason} ${path}`)).toEqual([fault]);
});

test("active profiles decide which services there are", () => {
  const text = "services: {a: {image: i}, b: {image: i, profiles: [p]}, c: {image: i, profiles: [q, p]}}";
  const names = (profiles: string[]) => parse(text, { profiles }).stack?.services.map(({ name }) => name);
  expect(names([])).toEqual(["a"]);
  expect(names(["q"])).toEqual(["a", "c"]);
  expect(names(["p"])).toEqual(["a", "b", "c"]);
  expect(names(["*"])).toEqual(["a", "b", "c"]);
  expect(parse(text, { profiles: ["r"] }).warnings).toMatchObject([{ reason: "PROFILE_UNKNOWN" }]);
});

test("secrets' contents stand beside the model, never in it", () => {
  const text = `services: {a: {image: i, secrets: [one, two, {source: three, target: /abs, uid: "5", mode: 0400}]}}
secrets: {one: {file: ./one.txt}, two: {environment: TWO}, three: {external: true, name: shared}}
configs: {c: {content: "hello $TWO"}, bin: {file: bin}}`;
  const parsed = parse(text, {
    contents: { "one.txt": "hush-1", bin: new Uint8Array([255, 0, 1]) },
    variables: { TWO: "hush-2" },
    externals: { secrets: ["shared"] },
  });
  expect(parsed.errors).toEqual([]);
  expect([...parsed.contents].map(([name, bytes]) => [name, new TextDecoder().decode(bytes)])).toEqual([
    ["one", "hush-1"],
    ["two", "hush-2"],
  ]);
  expect(JSON.stringify(parsed.stack?.secrets)).not.toContain("hush");
  expect(parsed.stack?.services[0]?.secrets).toEqual([
    { source: "one", target: "/run/secrets/one" },
    { source: "two", target: "/run/secrets/two" },
    { source: "three", target: "/abs", uid: "5", mode: 0o400 },
  ]);
  expect(parsed.stack?.configs).toEqual([
    { name: "bin", source: { kind: "given", content: "/wAB", encoding: "base64" } },
    { name: "c", source: { kind: "given", content: "hello hush-2", encoding: "utf8" } },
  ]);
});

test("the name that is given comes before the files'", () => {
  const text = "name: of-file\nservices: {a: {image: i}}";
  expect(parseCompose({ name: "given", files: [{ name: "f", text }] }).stack?.name).toBe("given");
  expect(parseCompose({ files: [{ name: "f", text }] }).stack?.name).toBe("of-file");
  expect(parseCompose({ name: "Not/this", files: [{ name: "f", text }] }).errors).toMatchObject([
    { reason: "NAME_INVALID" },
  ]);
});

test("too many services are refused, and too many diagnostics cut", () => {
  const many = Array.from({ length: MAX_SERVICES + 1 }, (_, index) => `s${index}: {image: i}`).join(", ");
  expect(parse(`services: {${many}}`).errors).toMatchObject([{ reason: "TOO_MANY" }]);
  expect(parse(`services: {${many.replaceAll("image", "imag")}}`).errors.length).toBe(200);
});

test("a diagnostic is one line that says where, what and what to do", () => {
  const [error] = parse("services:\n  web:\n    image: nginx\n    ports: [a]\n").errors;
  expect(error === undefined ? "" : diagnosticLine(error)).toBe(
    'compose.yaml:4:13: services.web.ports[0]: "a" is no port (VALUE_INVALID). Write [HOST_IP:][PUBLISHED:]TARGET[/tcp|udp], ' +
      'such as "127.0.0.1:8080:80" or "6060:6060/udp".',
  );
});

test("no value anywhere makes it throw", () => {
  const keys = fc.constantFrom(
    "ports",
    "volumes",
    "command",
    "healthcheck",
    "deploy",
    "environment",
    "networks",
    "depends_on",
    "logging",
    "ulimits",
    "tmpfs",
    "devices",
    "secrets",
    "extends",
    "build",
    "labels",
    "env_file",
    "sysctls",
    "extra_hosts",
    "restart",
    "links",
  );
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom("$A", "${A:-", ":", "::", "/", "a:b:c", "1-2:3", "~", "\\", "'", "0x1", "-1"),
  );
  fc.assert(
    fc.property(fc.dictionary(keys, fc.oneof(value, fc.array(value, { maxLength: 3 })), { maxKeys: 4 }), (settings) => {
      const { stack, errors } = parse(JSON.stringify({ services: { web: { image: "i", ...settings } } }));
      expect(stack === undefined).toBe(errors.length > 0);
    }),
    { numRuns: 200, seed: 20261122 },
  );
});
