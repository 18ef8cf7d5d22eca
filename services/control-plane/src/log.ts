/** The log: JSON lines with level and request id, or a readable form on a terminal. */
import { type DestinationStream, type Logger, pino, stdSerializers } from "pino";

/**
 * L1: lines of one turn of the event loop are written together, at its end: a
 *     write into a pipe costs more than all else about a line. What is lost when
 *     the process is killed is that turn's lines; at every other end (also by an
 *     error that nobody catches) they are written.
 */

/** Beyond it they are written at once: a turn that says this much is a long one. */
const atMostCharacters = 65_536;

/** L1. */
function together(destination: NodeJS.WritableStream): DestinationStream & { flushSync(): void } {
  let lines = "";
  const flush = (): void => {
    if (lines === "") return;
    const text = lines;
    lines = "";
    destination.write(text);
  };
  process.on("exit", flush);
  return {
    write(line) {
      if (lines === "") setImmediate(flush);
      lines += line;
      if (lines.length >= atMostCharacters) flush();
    },
    flushSync: flush,
  };
}

/** Fields that never reach a log, wherever they stand. */
const secretFields = ["token", "secret", "accessToken", "authorization", "password", "privateJwk"];

export async function createLog(
  options: { level: string; format: "json" | "pretty" },
  destination: NodeJS.WriteStream = process.stderr,
): Promise<Logger> {
  const stream = options.format === "pretty" ? await readable(destination) : together(destination);
  return pino(
    {
      level: options.level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: stdSerializers.err },
      redact: { paths: secretFields.flatMap((field) => [field, `*.${field}`]), censor: "(hidden)" },
    },
    stream,
  );
}

/** Loaded only where a person reads: a service logs JSON. */
async function readable(destination: NodeJS.WriteStream): Promise<DestinationStream> {
  const { default: pretty } = await import("pino-pretty");
  return pretty({ colorize: destination.isTTY, destination, ignore: "pid,hostname", translateTime: "SYS:HH:MM:ss.l" });
}
