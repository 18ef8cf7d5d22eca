/** The part of OTEL_* that decides whether and how; the exporter reads its own (headers, timeout, certificates). */

export interface TraceSettings {
  /** As OTEL_SERVICE_NAME says, else the program's own. */
  serviceName: string;
  serviceVersion: string;
  /** Share of traces that begin here and are kept, 0 to 1; others' decisions are followed. */
  keep: number;
}

export interface TraceEvents {
  /** Spans that found no place, or that nobody took. */
  dropped(spans: number): void;
  log: { warn(fields: object, message: string): void };
}

/** A variable that cannot be used; the message names it. */
export class TraceSettingsError extends Error {
  override readonly name = "TraceSettingsError";
}

/**
 * Undefined: nothing is exported. It is where an OTLP endpoint is set, or
 * OTEL_TRACES_EXPORTER is `otlp`. Throws a TraceSettingsError.
 */
export function readTraceSettings(
  environment: Readonly<Record<string, string | undefined>>,
  program: { name: string; version: string },
): TraceSettings | undefined {
  const read = (name: string): string => (environment[name] ?? "").trim();
  const of = (tail: string): [name: string, value: string] => {
    const own = `OTEL_EXPORTER_OTLP_TRACES_${tail}`;
    return read(own) === "" ? [`OTEL_EXPORTER_OTLP_${tail}`, read(`OTEL_EXPORTER_OTLP_${tail}`)] : [own, read(own)];
  };
  if (read("OTEL_SDK_DISABLED").toLowerCase() === "true") return undefined;
  const exporter = read("OTEL_TRACES_EXPORTER");
  if (exporter === "none") return undefined;
  if (exporter !== "" && exporter !== "otlp")
    throw new TraceSettingsError(`OTEL_TRACES_EXPORTER=${exporter}: this program exports by otlp, or none`);
  const [endpointName, endpoint] = of("ENDPOINT");
  if (exporter === "" && endpoint === "") return undefined;
  const url = endpoint === "" ? undefined : URL.parse(endpoint);
  if (endpoint !== "" && url?.protocol !== "http:" && url?.protocol !== "https:")
    throw new TraceSettingsError(`${endpointName}: not an http:// or https:// URL`);
  const [protocolName, protocol] = of("PROTOCOL");
  if (protocol !== "" && protocol !== "http/json")
    throw new TraceSettingsError(`${protocolName}=${protocol}: this program speaks http/json, which port 4318 takes`);
  return {
    serviceName: read("OTEL_SERVICE_NAME") || program.name,
    serviceVersion: program.version,
    keep: keepOf(read("OTEL_TRACES_SAMPLER"), read("OTEL_TRACES_SAMPLER_ARG")),
  };
}

function keepOf(sampler: string, argument: string): number {
  switch (sampler) {
    case "":
    case "parentbased_always_on":
      return 1;
    case "parentbased_always_off":
      return 0;
    case "parentbased_traceidratio": {
      const share = argument === "" ? 1 : Number(argument);
      if (share >= 0 && share <= 1) return share;
      throw new TraceSettingsError(`OTEL_TRACES_SAMPLER_ARG=${argument}: a number from 0 to 1`);
    }
    default:
      throw new TraceSettingsError(
        `OTEL_TRACES_SAMPLER=${sampler}: parentbased_always_on, parentbased_always_off or parentbased_traceidratio`,
      );
  }
}
