/**
 * Lines that show how far something is: moving on a terminal, one per change
 * elsewhere. They go to standard error, results don't.
 */
import type { Cli } from "./cli.ts";
import { columns, plain } from "./text.ts";

/** One line of the board; rows below it belong to it. */
export type Row = {
  /** What tells the row from others. */
  key: string;
  cells: readonly string[];
  /** Lines below it: why, what still holds. */
  below?: readonly string[];
  /** Without a terminal the row is printed again only when this changes. Default: all of it. */
  mark?: string;
};

export type Board = {
  /** Shows these rows, in this order. */
  show(rows: readonly Row[]): void;
  /** Leaves the last state on the screen. */
  end(): void;
};

/** A board below `title`. On a terminal it is drawn over itself; colour and movement only where they are welcome. */
export function board(cli: Cli, title: string, quiet: boolean): Board {
  if (quiet) return { show: () => {}, end: () => {} };
  cli.note(plain(title));
  const moving = cli.stderr.isTTY === true && cli.settings.decorated;
  return moving ? movingBoard(cli) : printedBoard(cli);
}

function movingBoard(cli: Cli): Board {
  let drawn = 0;
  return {
    show(rows) {
      const width = cli.stderr.columns > 0 ? cli.stderr.columns : 80; // a terminal that knows no width says 0
      const lines = ["", ...render(rows), ""].map((line) =>
        Array.from(line)
          .slice(0, width - 1)
          .join(""),
      );
      const up = drawn === 0 ? "" : `\u001b[${drawn}A`;
      cli.stderr.write(`${up}${lines.map((line) => `\u001b[2K${line}\n`).join("")}\u001b[J`);
      drawn = lines.length;
    },
    end() {
      drawn = 0;
    },
  };
}

function printedBoard(cli: Cli): Board {
  const marks = new Map<string, string>();
  return {
    show(rows) {
      for (const row of rows) {
        const mark = row.mark ?? JSON.stringify([row.cells, row.below]);
        if (marks.get(row.key) === mark) continue;
        marks.set(row.key, mark);
        for (const line of render([row])) cli.note(line);
      }
    },
    end() {},
  };
}

function render(rows: readonly Row[]): string[] {
  const lines = columns(rows.map(({ cells }) => cells.map(plain)));
  return rows.flatMap(({ below = [] }, index) => [
    `  ${lines[index] ?? ""}`,
    ...below.map((line) => `            ${plain(line)}`),
  ]);
}
