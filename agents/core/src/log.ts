/** The agent's log: lines on standard error, JSON for machines or text for people. No secrets, no specs. */
import { pino, type Logger } from "pino";

export type Log = Pick<Logger, "debug" | "info" | "warn" | "error">;

export const logLevels = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

export function createLog(options: { format: "json" | "pretty"; level: LogLevel }): Log {
  const settings = {
    level: options.level,
    base: null,
    formatters: { level: (level: string) => ({ level }) },
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
  };
  const write = (line: string): void => void process.stderr.write(line);
  return pino(settings, { write: options.format === "json" ? write : (line) => write(`${pretty(line)}\n`) });
}

function pretty(line: string): string {
  const { level, time, msg, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const clock = new Date(String(time)).toTimeString().slice(0, 8);
  const facts = Object.entries(rest).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return [clock, String(level).padEnd(5), String(msg), ...facts].join(" ");
}
