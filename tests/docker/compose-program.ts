/**
 * Compose itself, and Docker's command line: what people type, not our idea of
 * it. Debian's package of Compose is 1.29, with a Python of its own beside it,
 * unpacked and not installed.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { findProgram, runProcess, temporaryFolder, type TestDocker } from "@bowline/testing";
import { root } from "./base-images.ts";

/** Compose, the libraries that it imports, and their Python. */
const packages = [
  ...[
    "docker-compose",
    "python3-docker",
    "python3-dockerpty",
    "python3-docopt",
    "python3-dotenv",
    "python3-jsonschema",
  ],
  ...[
    "python3-requests",
    "python3-texttable",
    "python3-websocket",
    "python3-yaml",
    "python3-distro",
    "python3-urllib3",
  ],
  ...["python3-idna", "python3-certifi", "python3-chardet", "python3-six", "python3-attr", "python3-pyrsistent"],
  ...["python3-packaging", "python3-pkg-resources", "python3-distutils", "python3-paramiko", "python3.11-minimal"],
  ...["libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1", "libyaml-0-2"],
];

export interface ComposeRun {
  code: number | null;
  stdout: string;
  output: string;
}

/** `docker-compose` on deploy/compose/compose.yaml, as a project of its own. */
export async function composeProgram(
  docker: TestDocker,
  project: string,
  env: Record<string, string>,
): Promise<(...args: string[]) => Promise<ComposeRun>> {
  const found = await findProgram({
    name: "docker-compose-1.29", // not the one of the path: that may be any
    path: "usr/bin/python3.11",
    packages,
    missing:
      "the test of deploy/compose needs Compose: let Debian 12's package docker-compose be fetched (apt-get has to reach a mirror)",
  });
  const usr = join(dirname(found.program), "..");
  const folder = join(root, "deploy/compose");
  const file = join(temporaryFolder(), "compose.yaml");
  // 1.29 is older than this key, and the project has another name here anyway.
  writeFileSync(file, readFileSync(join(folder, "compose.yaml"), "utf8").replace(/^name: .*$/m, ""));
  const python = { PYTHONHOME: usr, PYTHONPATH: join(usr, "lib/python3/dist-packages"), PYTHONNOUSERSITE: "1" };
  return async (...args) => {
    const where = ["--project-name", project, "--project-directory", folder, "--file", file];
    const { code, stdout, stderr } = await runProcess({
      command: [found.program, "-m", "compose", "--no-ansi", ...where, ...args],
      env: { ...found.env, ...python, DOCKER_HOST: docker.host, ...env },
    });
    return { code, stdout, output: stdout + stderr };
  };
}

/** `docker` on that engine. Throws where it fails. */
export async function dockerProgram(docker: TestDocker): Promise<(...args: string[]) => Promise<string>> {
  const { program } = await findProgram({
    name: "docker-20.10", // not the one of the path: without its plugin it builds as nobody does any more
    ...{ path: "usr/bin/docker", packages: ["docker.io"] },
    missing:
      "the test of deploy/images needs Docker's command line: let Debian 12's package docker.io be fetched (apt-get has to reach a mirror)",
  });
  return async (...args) => {
    const env = { DOCKER_HOST: docker.host, DOCKER_BUILDKIT: "1", DOCKER_CONFIG: "/nonexistent" };
    const { code, stdout, stderr } = await runProcess({ command: [program, ...args], cwd: root, env });
    if (code !== 0)
      throw new Error(`docker ${args.join(" ")}: ${code}\n${stdout.slice(-4_000)}\n${stderr.slice(-4_000)}`);
    return stdout;
  };
}

/** Builds deploy/images/NAME.Dockerfile; the network is this machine's, as the tests' engine has none for builds. */
export async function buildImage(docker: TestDocker, name: string, tag: string): Promise<void> {
  const run = await dockerProgram(docker);
  const file = `deploy/images/${name}.Dockerfile`;
  if (!existsSync(join(root, file))) throw new Error(`there is no ${file}`);
  const proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"].flatMap((variable) => ["--build-arg", variable]);
  await run("build", "--quiet", "--network", "host", ...proxies, "--file", file, "--tag", tag, ".");
}
