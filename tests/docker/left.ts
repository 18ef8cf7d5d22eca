/** What is on an engine that a test could have left there. Images stay: they are made once for all files. */
import type { TestDocker } from "@bowline/testing";

/** Containers, networks and volumes, one line each, for people. */
export async function onEngine(docker: TestDocker): Promise<Set<string>> {
  const containers = (await docker.ask("GET", "/containers/json?all=1")) as {
    Id: string;
    Names: string[];
    Status: string;
  }[];
  const networks = (await docker.ask("GET", "/networks")) as { Id: string; Name: string }[];
  const volumes = (await docker.ask("GET", "/volumes")) as { Volumes: { Name: string }[] | null };
  return new Set([
    ...containers.map(({ Id, Names, Status }) => `container ${Names[0] ?? ""} ${Id} (${Status})`),
    ...networks.map(({ Id, Name }) => `network ${Name} ${Id}`),
    ...(volumes.Volumes ?? []).map(({ Name }) => `volume ${Name}`),
  ]);
}
