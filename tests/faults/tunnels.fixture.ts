/**
 * A stack on a host whose agent reaches one of several replicas through a proxy,
 * and what people do with its instances at any of them.
 *
 *   tunnels.test.ts  logs and exec, whole      tunnels-cut.test.ts  what breaks them
 *   tunnels-polled.test.ts  of an agent that polls
 */
import { type ExecRequestSchema, InstanceService } from "@bowline/contract/instances";
import { Stack_State, StackService } from "@bowline/contract/stacks";
import { refusalOf } from "@bowline/session";
import { startReplicas, startTcpProxy, type TcpProxy, type TestServer, until } from "@bowline/testing";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { startAgent, type TestAgent } from "../e2e/fixture.ts";

/** An agent's longest wait between dials after a few that failed, and a cold start on a busy machine. */
export const withinMs = 60_000;

const compose = `services:
  web:
    image: local
    command: ["node", "-e", "let n = 0; console.log('begins'); setInterval(() => console.log('tick ' + ++n), 100)"]
    environment: { COLOUR: blue }
    deploy: { replicas: 2 }
  db:
    image: local
    command: ["node", "-e", "console.log('one'); console.error('two'); process.stdout.write('three'); setInterval(() => {}, 1 << 30)"]
`;

export interface Shop {
  a: TestServer;
  b: TestServer;
  c: TestServer;
  /** Its agent's way: to `a` at first. */
  way: TcpProxy;
  agent: TestAgent;
}

/** The stack `shop` on the agent `press-1` of the cluster `near`: two instances that tick, one that has said three lines. */
export async function startShop(...flags: readonly string[]): Promise<Shop> {
  const [a, b, c] = await startReplicas(3);
  const way = await startTcpProxy({ host: "127.0.0.1", port: portOf(a) });
  const cluster = await a.operator.cluster("near");
  const token = await a.operator.registrationToken(cluster.id);
  const agent = startAgent(`http://127.0.0.1:${way.port}`, { token, flags: ["--name", "press-1", ...flags] });
  const stacks = a.client(StackService);
  const source = { files: [{ name: "compose.yaml", content: Buffer.from(compose) }] };
  await stacks.applyStack({ name: "shop", clusterId: "near", source });
  // What runs is observed a moment after the command's result.
  await until(
    async () => {
      const { state, targets } = await stacks.getStack({ id: "shop" });
      const instances = targets.flatMap(({ services }) => services.flatMap((service) => service.instances));
      return state === Stack_State.RUNNING && instances.length === 3;
    },
    { withinMs, what: "the shop runs" },
  );
  return { a, b, c, way, agent };
}

export const portOf = ({ url }: TestServer): number => Number(new URL(url).port);

export type Said = MessageInitShape<typeof ExecRequestSchema>;

export interface Terminal {
  readonly text: { stdout: string; stderr: string };
  /** Its exit code, or the reason why there is none. */
  readonly ended: Promise<number | string>;
  type(line: string): void;
  resize(columns: number, rows: number): void;
  /** Ends stdin. */
  end(): void;
  /** Ends the call. */
  leave(): void;
}

/** What a person at a terminal does: says things when they come to mind, and looks at what is answered. */
export function run(server: TestServer, command: readonly string[], more: object = {}, token?: string): Terminal {
  const waiting: Said[] = [];
  let wake = (): void => undefined;
  let over = false;
  const say = (message: Said["message"]): void => {
    waiting.push({ message });
    wake();
  };
  const left = new AbortController();
  async function* said(): AsyncGenerator<Said> {
    for (;;) {
      const next = waiting.shift();
      if (next !== undefined) yield next;
      else if (over) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }
  const text = { stdout: "", stderr: "" };
  say({ case: "start", value: { stack: "shop", service: "web", command: [...command], ...more } });
  const ended = (async (): Promise<number | string> => {
    try {
      const answers = server.client(InstanceService, token).exec(said(), { signal: left.signal });
      for await (const { message } of answers) {
        if (message.case === "stdout" || message.case === "stderr")
          text[message.case] += Buffer.from(message.value).toString();
        if (message.case === "exit") return message.value.code;
      }
      return "no exit";
    } catch (error) {
      return refusalOf(error).reason;
    }
  })();
  return {
    text,
    ended,
    type: (line) => say({ case: "stdin", value: Buffer.from(line) }),
    resize: (columns, rows) => say({ case: "resize", value: { columns, rows } }),
    end() {
      over = true;
      wake();
    },
    leave: () => left.abort(),
  };
}

/** A program that says its pid and stays. */
export const stays = ["node", "-e", "console.log(process.pid); process.stdin.resume(); setInterval(() => {}, 1 << 30)"];

/** The pid that a program of `stays` has said. */
export async function pidOf({ text, ended }: Terminal): Promise<number> {
  const said = until(() => /^\d+\r?\n/.test(text.stdout), { withinMs }).then(() => "");
  const early = await Promise.race([said, ended.then((how) => `it ended: ${how}`)]);
  if (early !== "") throw new Error(`a program that is to stay: ${early}`);
  return Number.parseInt(text.stdout, 10);
}
