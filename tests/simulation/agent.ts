/** An agent on its host: the real journal, converger, session and connection, on a simulated disk, runtime and network. */
import {
  chooseTransport,
  connect,
  createConverger,
  type Gateways,
  openJournalFile,
  type Observer,
  serve,
} from "@bowline/agent-core";
import { noTraces } from "@bowline/traces";
import { Disk } from "./disk.ts";
import type { Host } from "./host.ts";
import type { Network } from "./network.ts";
import type { Random } from "./random.ts";
import { type Dialled, transportOf } from "./transport.ts";
import { Process, type World } from "./world.ts";

/** What a simulated assertion says; the network carries it as it is. */
export interface Assertion {
  agentId: string;
  counter: number;
}

const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

/** Where nothing attaches to anything. */
const plain: Pick<Gateways, "kindOf"> = { kindOf: () => "plain" };

/** What runs is not observed: the journal and the results say what is there. */
const unobserved: Observer = {
  report: () => undefined,
  observation: 0,
  running: () => 0,
  run: () => Promise.resolve(),
};

export class Agent {
  readonly id: string;
  readonly host: Host;
  readonly disk: Disk;
  process: Process | undefined;
  /** Wall clock of the machine, off by so much. */
  skewMs = 0;
  /** How often a process was started here. */
  starts = 0;
  #retired = false;
  readonly #world: World;
  readonly #random: Random;
  readonly #network: Network;
  readonly #choose: () => Dialled | undefined;

  constructor(
    parts: { world: World; random: Random; network: Network; choose: () => Dialled | undefined },
    id: string,
    host: Host,
  ) {
    this.id = id;
    this.host = host;
    this.#world = parts.world;
    this.#random = parts.random;
    this.#network = parts.network;
    this.#choose = parts.choose;
    this.disk = new Disk(parts.random.fork(`${host.name} disk`));
  }

  /** What tells its process from others of the same identity. */
  get processId(): string {
    return `${this.host.name} ${this.starts}`;
  }

  /** Starts a process where none lives. */
  start(): void {
    if (this.#retired || this.process?.alive === true) return;
    this.starts += 1;
    const process = new Process(this.#world, this.host.name, this.skewMs);
    this.process = process;
    process.note(() => `starts (${this.starts})`);
    void this.#run(process, this.processId);
  }

  kill(): void {
    this.process?.kill();
  }

  /** Its machine is switched off for good. */
  retire(): void {
    this.#retired = true;
    this.kill();
  }

  /** As supervise.ts puts it together. A process that ends by itself comes again, as a service does. */
  async #run(process: Process, processId: string): Promise<void> {
    const { clock } = process;
    const random = (): number => this.#random.next();
    const again = (): void => {
      process.kill();
      this.#world.at(1_000, () => this.start());
    };
    try {
      const journal = await openJournalFile(this.disk.file(process), quiet, () => clock.now());
      const runtime = this.host.runtime(process);
      const ports = { runtime, journal, log: quiet, clock, gateways: plain as Gateways };
      const converger = createConverger(ports);
      for (const command of journal.inFlight()) converger.run(command);
      const end = await connect(
        {
          sign: async (floor) => {
            const counter = await this.disk.nextCounter(process, floor);
            return JSON.stringify({ agentId: this.id, counter } satisfies Assertion);
          },
          choice: chooseTransport("stream"),
          dial: () => transportOf({ id: this.id, process }, this.#network, this.#choose),
          serve: (transport, assertion, signal) =>
            serve(
              {
                config: {
                  dataDir: "",
                  labels: {},
                  greetingWithinMs: 10_000,
                  streamRetryMs: 300_000,
                  transport: "stream",
                },
                processId,
                runtime,
                gatewayClasses: [],
                journal,
                converger,
                observer: unobserved,
                clock,
                log: quiet,
                traces: noTraces,
                random,
                diskFree: () => Promise.resolve(this.disk.full ? 0n : 1n << 40n),
                load: () => ({ loadMillis: 100, memoryMillis: 500 }),
              },
              transport,
              assertion,
              signal,
            ),
          clock,
          log: quiet,
          random,
        },
        new AbortController().signal,
      );
      process.note(() => `ends: ${JSON.stringify(end)}`);
      process.kill();
    } catch (error) {
      process.note(() => `fails: ${String(error)}`);
      again();
    }
  }
}
