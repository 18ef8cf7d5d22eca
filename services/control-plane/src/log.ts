/** The log: JSON lines with level and request id, or a readable form on a terminal. */
import { type DestinationStream, type Logger, pino, stdSerializers } from "pino";
import pretty from "pino-pretty";

/** Fields that never reach a log, wherever they stand. */
const secretFields = ["token", "secret", "accessToken", "authorization", "password", "privateJwk"];

export function createLog(
  options: { level: string; format: "json" | "pretty" },
  destination: NodeJS.WriteStream = process.stderr,
): Logger {
  const stream: DestinationStream =
    options.format === "pretty"
      ? pretty({ colorize: destination.isTTY, destination, ignore: "pid,hostname", translateTime: "SYS:HH:MM:ss.l" })
      : destination;
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
