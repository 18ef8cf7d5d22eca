/**
 * A real image registry on loopback, which an engine takes without TLS: the one
 * on the path, else Debian's package. It starts empty and ends with the test.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { findProgram } from "./debian-programs.ts";
import type { TestDocker } from "./docker.ts";
import { temporaryFolder } from "./folders.ts";
import { freePort } from "./ports.ts";
import { startProcess } from "./processes.ts";
import { until } from "./until.ts";

/** Passwords by user name. */
export type RegistryUsers = Readonly<Record<string, string>>;

export interface TestRegistryOptions {
  /** Who may pull and push; everybody else is refused. Default: everybody may, and no name is asked. */
  users?: RegistryUsers;
}

export interface TestRegistry {
  port: number;
  /** What references to its images begin with: `127.0.0.1:5000`. */
  address: string;
  /** Others from now on; only where it was started with some. */
  setUsers(users: RegistryUsers): void;
  /**
   * Pushes an image that the engine has as `name` (`shop/web:1`), in the name of the first user that there is.
   * The engine forgets the name, not the image: who wants a pull of it removes that.
   */
  push(docker: TestDocker, image: string, name: string): Promise<Pushed>;
}

export interface Pushed {
  /** `127.0.0.1:5000/shop/web:1` */
  reference: string;
  /** `127.0.0.1:5000/shop/web@sha256:…` */
  pinned: string;
}

/** Up in 100 ms; a busy machine takes longer. */
const startWithinMs = 30_000;

export async function testRegistry(options: TestRegistryOptions = {}): Promise<TestRegistry> {
  const found = await findProgram({
    name: "docker-registry",
    path: "usr/bin/docker-registry",
    packages: ["docker-registry"],
    missing:
      "tests of pulls need an image registry: install one (apt-get install docker-registry), or let Debian's package " +
      "be fetched (apt-get has to reach a mirror)",
  });
  let { users } = options;
  const folder = temporaryFolder();
  const passwords = join(folder, "passwords");
  const address = `127.0.0.1:${await freePort()}`;
  const setUsers = (others: RegistryUsers): void => {
    users = others;
    writeFileSync(passwords, passwordFile(others), { mode: 0o600 });
  };
  if (users !== undefined) setUsers(users);
  const configuration = join(folder, "registry.json"); // JSON is YAML
  writeFileSync(configuration, JSON.stringify(settings(folder, address, users === undefined ? undefined : passwords)));
  const running = startProcess({ command: [found.program, "serve", configuration], env: found.env });
  let died = false;
  void running.ended.then(() => (died = true));
  await until(
    async () => {
      if (died) throw new Error(`the registry ended by itself:\n${running.output()}`);
      return (await fetch(`http://${address}/`, { headers: { connection: "close" } }).catch(() => undefined))?.ok;
    },
    { what: "the registry to listen", withinMs: startWithinMs },
  );
  return {
    port: Number(address.split(":")[1]),
    address,
    setUsers,
    push: async (docker, image, name) => await push(docker, image, `${address}/${name}`, users),
  };
}

function settings(folder: string, addr: string, passwords: string | undefined): object {
  return {
    version: "0.1",
    log: { level: "error" },
    storage: { filesystem: { rootdirectory: join(folder, "images") } },
    http: { addr, secret: randomBytes(16).toString("hex") },
    ...(passwords === undefined ? {} : { auth: { htpasswd: { realm: "tests", path: passwords } } }),
  };
}

/** Lines of htpasswd; a registry takes bcrypt only, which Perl's crypt has on every Debian. */
function passwordFile(users: RegistryUsers): string {
  const salt = `$2y$05$${randomBytes(16).toString("hex").slice(0, 22)}`; // the cheapest that there is
  return Object.entries(users)
    .map(([user, password]) => {
      const hash = execFileSync("perl", ["-e", "print crypt(<STDIN>, $ARGV[0])", salt], { input: password });
      return `${user}:${hash.toString()}\n`;
    })
    .join("");
}

/** Credentials as an engine takes them with a pull or a push. */
export function registryHeaders(credentials: { username: string; password: string }): Record<string, string> {
  const base64 = Buffer.from(JSON.stringify(credentials)).toString("base64"); // with its padding
  return { "x-registry-auth": base64.replaceAll("+", "-").replaceAll("/", "_") };
}

async function push(
  docker: TestDocker,
  image: string,
  reference: string,
  users: RegistryUsers | undefined,
): Promise<Pushed> {
  const colon = reference.lastIndexOf(":");
  const [repository, tag] = [reference.slice(0, colon), reference.slice(colon + 1)];
  await docker.ask("POST", `/images/${image}/tag?repo=${repository}&tag=${tag}`);
  const [username = "", password = ""] = Object.entries(users ?? {})[0] ?? [];
  const headers = registryHeaders({ username, password });
  const said = String(await docker.ask("POST", `/images/${repository}/push?tag=${tag}`, undefined, headers));
  await docker.ask("DELETE", `/images/${reference}?noprune=1`);
  const digest = /"Digest":"(sha256:[0-9a-f]{64})"/.exec(said)?.[1];
  if (digest === undefined) throw new Error(`${reference} was not pushed:\n${said.slice(-1_000)}`);
  return { reference, pinned: `${repository}@${digest}` };
}
