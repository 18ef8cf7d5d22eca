import { execFileSync } from "node:child_process";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { containerLine, joinLine } from "./join-lines.ts";

const url = "https://bowline.example.com";
const here = { runtime: "docker", url, caFingerprint: "", version: "0.1.0", dockerHost: "" };

/** What `docker` is called with where a person types the line; its arguments, and the variable that it gets. */
function typed(line: string): { args: string[]; token: string } {
  const folder = temporaryFolder();
  const program = (name: string, body: string): void => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  program("docker", 'for word in "$@"; do echo "$word"; done; echo "$BOWLINE_REGISTRATION_TOKEN"');
  program("stat", "echo 998");
  writeFileSync(join(folder, "token"), "bwr_a_b\n");
  const env = { PATH: `${folder}:/usr/bin:/bin` };
  const lines = execFileSync("/bin/sh", ["-euc", line], { cwd: folder, env, encoding: "utf8" }).trimEnd().split("\n");
  return { args: lines.slice(0, -1), token: lines.at(-1) ?? "" };
}

test("a Docker host's line runs the image beside the socket with its group, the token in a variable and in no argument", () => {
  const { args, token } = typed(containerLine(here));
  expect(token).toBe("bwr_a_b");
  expect(args.join(" ")).toMatch(/^run --detach --name bowline-agent --restart unless-stopped --network host /);
  expect(args.join(" ")).toContain("--group-add 998 --volume /var/run/docker.sock:/var/run/docker.sock");
  expect(args.join(" ")).toContain(`--volume bowline-agent:/var/lib/bowline --env BOWLINE_SERVER=${url}`);
  expect(args.slice(-3)).toEqual(["--env", "BOWLINE_REGISTRATION_TOKEN", "bowline/agent-docker:0.1.0"]);
});

test("another socket is mounted where the image looks, an engine over TLS is dialled with the folder's files", () => {
  const rootless = typed(containerLine({ ...here, dockerHost: "unix:///run/user/1000/docker.sock" })).args;
  expect(rootless).toContain("/run/user/1000/docker.sock:/var/run/docker.sock");
  const remote = typed(containerLine({ ...here, dockerHost: "tcp://10.0.0.5:2376", caFingerprint: "sha256:ab" })).args;
  expect(remote).toEqual(expect.arrayContaining(["DOCKER_HOST=tcp://10.0.0.5:2376", "DOCKER_CERT_PATH=/certs"]));
  expect(remote).toContain("BOWLINE_CA_FINGERPRINT=sha256:ab");
  expect(remote.join(" ")).not.toContain("docker.sock");
});

test("the process's line names the runtime and the engine; only Docker hosts have an image", () => {
  const line = (more: object) => joinLine({ ...here, ...more }).replace("npm run -s bowline -- agent join ", "");
  expect(line({ runtime: "local" })).toBe(`${url} --token-file token`);
  expect(line({})).toBe(`${url} --runtime docker --token-file token`);
  expect(line({ dockerHost: "tcp://10.0.0.5:2376", caFingerprint: "sha256:ab" })).toBe(
    `${url} --runtime docker --docker-host tcp://10.0.0.5:2376 --docker-cert-path certs --token-file token --ca-fingerprint sha256:ab`,
  );
  expect(containerLine({ ...here, runtime: "local" })).toBe("");
});
