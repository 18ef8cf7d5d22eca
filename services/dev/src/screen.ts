/** What `npm start` prints: one line per stage, with its time. */
import type { StartFailure } from "./failure.ts";

const nameWidth = 10;
const textWidth = 46;

export type Screen = {
  line(text?: string): void;
  /** A stage that is done. `ms`: how long it took; small ones are not worth a number. */
  done(stage: string, text: string, ms?: number): void;
  /** Something that is not as it should be, and goes on. */
  warn(stage: string, text: string): void;
  /** The end of it. */
  failed(failure: StartFailure): void;
};

/** Times below it are not shown. */
const shownFromMs = 50;

export function openScreen(colour: boolean): Screen {
  // Whoever read our output may be gone; what runs is not ended by that.
  process.stdout.on("error", () => {});
  process.stderr.on("error", () => {});
  const paint = (code: number, text: string): string => (colour ? `\u001b[${code}m${text}\u001b[0m` : text);
  const line = (text = ""): void => {
    for (const row of text.split("\n")) process.stdout.write(row.trim() === "" ? "\n" : `  ${row.trimEnd()}\n`);
  };
  return {
    line,
    done(stage, text, ms) {
      const time = ms === undefined || ms < shownFromMs ? "" : `${(ms / 1_000).toFixed(1)} s`;
      const row = `${stage.padEnd(nameWidth)}  ${text.padEnd(textWidth)} ${time.padStart(7)}`.trimEnd();
      line(`${paint(32, "✓")} ${row}`);
    },
    warn(stage, text) {
      line(`${paint(33, "!")} ${stage.padEnd(nameWidth)}  ${text}`);
    },
    failed(failure) {
      line(`${paint(31, "✗")} ${failure.stage.padEnd(nameWidth)}  ${failure.message}`);
      for (const text of failure.lines) process.stderr.write(`      ${text}\n`);
    },
  };
}
