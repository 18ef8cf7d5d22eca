/**
 * What a person types on a host so that its agent joins: as a process, and on
 * a Docker host as a container of the image in deploy/images.
 *
 * J1: no token is in a line: arguments are shown to everybody by `ps`, and kept
 *     by shells. Both lines read a file `token`. The container has it as a
 *     variable, which `docker inspect` shows: to those who may use the engine,
 *     who own the host and the agent's keys anyway, and it is spent by then.
 * J2: what a line contains is checked (the contract's patterns, the setting
 *     publicUrl): nothing of it is more than a word to a shell.
 */
export interface Joining {
  runtime: string;
  /** Where agents reach this server. */
  url: string;
  /** Of the server's CA; empty: the system's are trusted. */
  caFingerprint: string;
  /** Tag of the image. */
  version: string;
  /** The agent's engine; empty: the socket of its host. */
  dockerHost: string;
}

const defaultSocket = "/var/run/docker.sock";
/** Inside the image. */
const stateFolder = "/var/lib/bowline";

const isTcp = (dockerHost: string): boolean => dockerHost.startsWith("tcp://");

export function joinLine({ runtime, url, caFingerprint, dockerHost }: Joining): string {
  const words = ["npm run -s bowline -- agent join", url];
  if (runtime !== "local") words.push(`--runtime ${runtime}`);
  if (dockerHost !== "") words.push(`--docker-host ${dockerHost}`);
  if (isTcp(dockerHost)) words.push("--docker-cert-path certs");
  words.push("--token-file token");
  if (caFingerprint !== "") words.push(`--ca-fingerprint ${caFingerprint}`);
  return words.join(" ");
}

/**
 * Of a runtime that has no image: empty. The host's network, because there the agent reaches what its containers listen
 * on, and is called as its host is; a volume for its identity, so that a container made anew is the same agent.
 */
export function containerLine({ runtime, url, caFingerprint, version, dockerHost }: Joining): string {
  if (runtime !== "docker") return "";
  const pin = caFingerprint === "" ? "" : ` --env BOWLINE_CA_FINGERPRINT=${caFingerprint}`;
  return [
    'BOWLINE_REGISTRATION_TOKEN="$(cat token)" docker run --detach --name bowline-agent --restart unless-stopped',
    `  --network host ${isTcp(dockerHost) ? overTls(dockerHost) : overSocket(dockerHost)}`,
    `  --volume bowline-agent:${stateFolder} --env BOWLINE_SERVER=${url}${pin}`,
    `  --env BOWLINE_REGISTRATION_TOKEN bowline/agent-docker:${version}`,
  ].join(" \\\n");
}

/** The socket's group is all that the agent needs of root. */
function overSocket(dockerHost: string): string {
  const socket = dockerHost === "" ? defaultSocket : dockerHost.slice("unix://".length);
  return `--group-add "$(stat -c %g ${socket})" --volume ${socket}:${defaultSocket}`;
}

/** As root it reads a key of mode 0600; where the key is readable it gives root up. */
function overTls(dockerHost: string): string {
  return `--user 0 --volume "$PWD/certs:/certs:ro" --env DOCKER_HOST=${dockerHost} --env DOCKER_CERT_PATH=/certs`;
}
