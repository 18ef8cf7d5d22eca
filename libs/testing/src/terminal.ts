/**
 * A program at a terminal, as a person has it: `script` (util-linux) holds the
 * terminal, `stty` (coreutils) sets its size and tells its settings.
 *
 *     const terminal = startTerminal({ command: ["bowline", …] });
 *     await terminal.untilOutput(/\$ /);
 *     terminal.type("ls\r");            // "\u0003" is Ctrl-C
 *     await terminal.resize(100, 30);
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type ProcessEnd, type ProcessOptions, type RunningProcess, runProcess, startProcess } from "./processes.ts";
import { until } from "./until.ts";

export interface Terminal {
  type(text: string): void;
  /** Its program is told by SIGWINCH: of the rows first, and then also of the columns. */
  resize(columns: number, rows: number): Promise<void>;
  /** As `stty -a` says them, without a `-` those that are on: `icanon`, `isig`, `echo`. */
  settings(): Promise<ReadonlySet<string>>;
  /** All that was shown so far. */
  shown: () => string;
  untilOutput: RunningProcess["untilOutput"];
  /** Of the program: its exit code. */
  ended: Promise<ProcessEnd>;
}

/** Long for two cores with much else to do. */
const withinMs = 30_000;

/** 80 columns, 24 rows. It ends with its test, as every process. */
export function startTerminal(options: Pick<ProcessOptions, "command" | "env">): Terminal {
  const [program = "", ...args] = options.command;
  const words = [program === "node" ? process.execPath : program, ...args];
  const quoted = words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  const running = startProcess({
    command: ["script", "-qefc", `stty sane echo rows 24 cols 80; exec ${quoted}`, "/dev/null"],
    env: { ...options.env, SHELL: "/bin/sh" },
    stdin: "open",
  });
  const stty = async (...args: string[]): Promise<string> => {
    const device = await until(() => deviceOf(running.pid), { withinMs, what: "the program's terminal" });
    return (await runProcess({ command: ["stty", "-F", device, ...args] })).stdout;
  };
  return {
    type: (text) => running.write(text),
    async resize(columns, rows) {
      await stty("rows", String(rows), "cols", String(columns));
    },
    settings: async () => new Set((await stty("-a")).split(/[\s;]+/)),
    shown: () => running.stdout(),
    untilOutput: (pattern, within = { withinMs }) => running.untilOutput(pattern, within),
    ended: running.ended,
  };
}

/** The terminal of the child of `script`; undefined: it has none yet, or has ended. */
function deviceOf(pid: number): string | undefined {
  for (const child of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const parent = Number(readFileSync(`/proc/${child}/stat`, "utf8").split(") ").at(-1)?.split(" ")[1]);
      if (parent !== pid) continue;
      const device = readlinkSync(`/proc/${child}/fd/0`);
      if (device.startsWith("/dev/pts/")) return device;
    } catch {
      // It ended while we looked.
    }
  }
  return undefined;
}
