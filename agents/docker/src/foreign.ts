/**
 * Containers on the engine that are not this agent's, as far as they may be told: nothing of what they were started
 * with (command, environment, mounts), since secrets are in there. Only ever read.
 */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type ForeignContainer,
  ForeignContainer_Health as Health,
  ForeignContainer_State as State,
  ForeignContainerSchema,
} from "@bowline/contract/agents";
import type { Engine } from "./engine.ts";
import { labels } from "./labels.ts";

/** In a list of containers; only what is told. */
export interface ForeignListed {
  Id: string;
  Names?: string[] | null;
  Image: string;
  ImageID: string;
  /** Seconds. */
  Created: number;
  Labels?: Record<string, string> | null;
  State: string;
  Status: string;
  Ports?: { IP?: string; PrivatePort: number; PublicPort?: number; Type: string }[] | null;
  NetworkSettings?: { Networks?: Record<string, unknown> | null } | null;
}

interface ImageListed {
  Id: string;
  RepoDigests?: string[] | null;
}

/** Of texts that others chose: what a table can show. */
const maxText = 255;
/** As the contract says. */
const maxPorts = 64;
const maxNetworks = 64;

/** Throws EngineError. `agent`: the value of our own label. */
export async function listForeign(engine: Engine, agent: string, signal: AbortSignal): Promise<ForeignContainer[]> {
  const all = await engine.call<ForeignListed[]>("GET", "/containers/json", { query: { all: true }, signal });
  const foreign = all.filter(({ Labels }) => Labels?.[labels.agent] !== agent);
  if (foreign.length === 0) return [];
  const images = await engine.call<ImageListed[]>("GET", "/images/json", { query: { digests: true }, signal });
  const digests = new Map(images.map(({ Id, RepoDigests }) => [Id, RepoDigests ?? []]));
  return foreign.map((one) => foreignOf(one, digests.get(one.ImageID) ?? []));
}

/** `digests`: of its image, as `repository@sha256:…`. */
export function foreignOf(listed: ForeignListed, digests: readonly string[]): ForeignContainer {
  const { Id, Names, Image, Created, Labels, State: state, Status, Ports, NetworkSettings } = listed;
  const ports = (Ports ?? []).toSorted(
    (a, b) => a.PrivatePort - b.PrivatePort || (a.PublicPort ?? 0) - (b.PublicPort ?? 0),
  );
  return create(ForeignContainerSchema, {
    id: cut(Id),
    name: cut(nameOf(Names ?? [])),
    image: cut(Image),
    imageDigest: cut(digestOf(Image, digests)),
    state: State[state.toUpperCase() as keyof typeof State] ?? State.STATE_UNSPECIFIED,
    status: cut(Status),
    health: healthOf(Status),
    createdAt: timestampFromMs(Created * 1000),
    ports: ports.slice(0, maxPorts).map(({ IP = "", PrivatePort, PublicPort = 0, Type }) => ({
      ...{ container: PrivatePort, published: PublicPort, hostAddress: cut(IP), protocol: cut(Type) },
    })),
    networks: Object.keys(NetworkSettings?.Networks ?? {})
      .toSorted()
      .slice(0, maxNetworks)
      .map(cut),
    composeProject: cut(Labels?.["com.docker.compose.project"] ?? ""),
    composeService: cut(Labels?.["com.docker.compose.service"] ?? ""),
    bowlineAgent: cut(Labels?.[labels.agent] ?? ""),
  });
}

/** Others are aliases of links: `/other/alias`. */
function nameOf(names: readonly string[]): string {
  const plain = names.map((name) => name.replace(/^\//, ""));
  return plain.find((name) => !name.includes("/")) ?? plain[0] ?? "";
}

/** The engine tells it in its words for the state only. */
function healthOf(status: string): Health {
  if (status.endsWith("(healthy)")) return Health.HEALTHY;
  if (status.endsWith("(unhealthy)")) return Health.UNHEALTHY;
  return status.endsWith("(health: starting)") ? Health.STARTING : Health.HEALTH_UNSPECIFIED;
}

/** An image may come from several registries: the digest from the one that it is named after, else any. */
function digestOf(image: string, digests: readonly string[]): string {
  const own = /@(sha256:[0-9a-f]{64})$/.exec(image)?.[1];
  if (own !== undefined) return own;
  const repository = image.replace(/:[^:/]+$/, "");
  const found = digests.find((digest) => digest.startsWith(`${repository}@`)) ?? digests[0] ?? "";
  return found.split("@")[1] ?? "";
}

function cut(text: string): string {
  return text.slice(0, maxText);
}
