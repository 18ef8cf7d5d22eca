import { expect, test } from "@jest/globals";
import { diffLines, diffStacks } from "./diff.ts";
import { parseCompose, type ComposeInput, type ParsedStack } from "./parse.ts";
import { NOT_SHOWN, printStack } from "./print.ts";

function parsed(text: string, more: Partial<ComposeInput> = {}): ParsedStack {
  const result = parseCompose({ name: "shop", files: [{ name: "f", text }], ...more });
  expect(result.errors).toEqual([]);
  return result;
}

const before = `services:
  web: {image: 'web:1', ports: ['80:80'], environment: {A: 1, B: 2}, command: [a, b]}
  db: {image: pg, secrets: [password]}
  old: {image: o}
volumes: {data: }
secrets: {password: {file: pw}}`;
const after = `services:
  web: {image: 'web:2', ports: ['8080:80'], environment: {A: 1, B: 3, C: 4}, command: [a, c]}
  db: {image: pg, secrets: [password]}
  new: {image: n}
volumes: {data: , more: }
secrets: {password: {file: pw}}`;

test("a diff says per service which field was what and is what", () => {
  const lines = diffLines(
    diffStacks(parsed(before, { contents: { pw: "hush-one" } }), parsed(after, { contents: { pw: "hush-two" } })),
  );
  expect(lines).toEqual([
    "+ service new",
    "- service old",
    "~ service web",
    '    command: ["a","b"] → ["a","c"]',
    '    environment.B: "2" → "3"',
    '    environment.C: + "4"',
    '    image: "web:1" → "web:2"',
    "    ports[0].published: 80 → 8080",
    "+ volume more",
    "~ secret password",
    "    content: changed (not shown)",
  ]);
});

test("a secret's content is in no difference", () => {
  const found = diffStacks(
    parsed(before, { contents: { pw: "hush-one" } }),
    parsed(after, { contents: { pw: "hush-two" } }),
  );
  expect(JSON.stringify(found)).not.toContain("hush");
  const same = parsed(before, { contents: { pw: "hush-one" } });
  expect(diffStacks(same, same)).toEqual([]);
  // A stored model without the contents: nothing can be said of them.
  expect(diffStacks({ stack: same.stack }, same)).toEqual([]);
});

test("against nothing all is added, and to nothing all is removed", () => {
  const one = parsed("services: {a: {image: i}}");
  expect(diffLines(diffStacks({}, one))).toEqual(["+ service a", "+ network default"]);
  expect(diffLines(diffStacks(one, {}))).toEqual(["- service a", "- network default"]);
});

test("the order in which files write things makes no difference", () => {
  const one = parsed("services: {a: {image: i, labels: {x: 1, y: 2}}, b: {image: j}}");
  const two = parsed("services: {b: {image: j}, a: {labels: [y=2, x=1], image: i}}");
  expect(diffStacks(one, two)).toEqual([]);
  expect(JSON.stringify(one.stack)).toBe(JSON.stringify(two.stack));
});

const everything = `services:
  web:
    image: web
    platform: linux/amd64
    pull_policy: always
    entrypoint: []
    command: [sh, -c, "echo $$HOME"]
    environment: {EMPTY: "", DOLLAR: "a$$b", NUMBER: 010}
    ports: ["127.0.0.1:80:80", "90/udp"]
    expose: [81]
    volumes: ["data:/data:ro", /anonymous, "/host:/h:ro", {type: tmpfs, target: /t, tmpfs: {size: 1k, mode: 0700}},
      {type: bind, source: /made, target: /m, bind: {create_host_path: false}}]
    secrets: [{source: s, target: x, uid: "1", gid: "2", mode: 0400}]
    configs: [c]
    networks: {front: {aliases: [w]}, back: }
    depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}
    healthcheck: {test: [CMD, a], interval: 1s, timeout: 2s, retries: 3, start_period: 4s}
    labels: {a: b, empty: ""}
    logging: {driver: local, options: {max-size: 1m}}
    stop_signal: SIGINT
    stop_grace_period: 1500ms
    user: u
    group_add: [1]
    working_dir: /w
    read_only: true
    init: true
    tty: true
    stdin_open: true
    hostname: h
    domainname: d
    extra_hosts: ["h:1.1.1.1", "v6=[::1]"]
    dns: [1.1.1.1]
    dns_search: [a]
    dns_opt: [b]
    ulimits: {nofile: 5}
    shm_size: 1m
    sysctls: {net.core.somaxconn: 1}
    cap_add: [SYS_PTRACE]
    cap_drop: [ALL]
    privileged: true
    devices: ["/dev/a:/dev/b:r"]
    security_opt: [a=b]
    cgroup_parent: c
    pid: host
    ipc: host
    uts: host
    userns_mode: host
    deploy:
      replicas: 2
      resources: {limits: {cpus: 0.5, memory: 1g, pids: 5}, reservations: {memory: 1m}}
      update_config: {parallelism: 2, order: start-first}
      restart_policy: {condition: on-failure, max_attempts: 3}
      placement: {constraints: [node.labels.a == b, node.hostname != c], max_replicas_per_node: 1}
  db: {image: db, network_mode: none, restart: always, healthcheck: {disable: true}}
  init: {image: init, deploy: {mode: global-job}, network_mode: host}
networks: {front: {internal: true}, back: {external: true, name: other}}
volumes: {data: {driver: x, driver_opts: {a: b}}, outside: {external: true}}
secrets: {s: {file: f}, e: {external: true, name: shared}}
configs: {c: {content: "text $$\\n"}}`;

test("the printed file, read again, is the same stack, and shows no secret", () => {
  const one = parsed(everything, { contents: { f: "hush" } });
  const text = printStack(one.stack ?? { name: "", services: [], volumes: [], networks: [], secrets: [], configs: [] });
  expect(text).not.toContain("hush");
  expect(text).not.toContain("{}"); // what says nothing is left out
  const two = parsed(text, { contents: { [NOT_SHOWN]: "other" } });
  expect(two.stack).toEqual(one.stack);
  expect(two.warnings).toEqual([]);
  expect(two.asks.map(({ kind, value }) => `${kind} ${value}`).toSorted()).toEqual(
    one.asks.map(({ kind, value }) => `${kind} ${value}`).toSorted(),
  );
});
