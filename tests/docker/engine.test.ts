/** The Docker Engine of the tests: containers run, find each other, and are reached. */
import { test } from "@jest/globals";
import { atEnd, testDocker, until } from "@bowline/testing";

const image = "testing/node:1";

test("containers of one network find each other by name, and a published port is reached from here", async () => {
  const docker = await testDocker();
  await docker.importNode(image, {});
  const network = `testing-${process.pid}`;
  await docker.ask("POST", "/networks/create", { Name: network });
  atEnd(() => docker.ask("DELETE", `/networks/${network}`).then(() => undefined));
  const start = async (name: string, source: string): Promise<string> => {
    const { Id } = (await docker.ask("POST", `/containers/create?name=${name}-${process.pid}`, {
      Image: image,
      Cmd: ["node", "-e", source],
      ExposedPorts: { "80/tcp": {} },
      HostConfig: { NetworkMode: network, PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "" }] } },
    })) as { Id: string };
    atEnd(() => docker.ask("DELETE", `/containers/${Id}?force=1`).then(() => undefined));
    await docker.ask("POST", `/containers/${Id}/start`);
    return Id;
  };
  await start("there", "require('http').createServer((_, answer) => answer.end('there')).listen(80)");
  const near = await start(
    "near",
    `require('http').createServer(async (_, answer) => {
      const other = await fetch('http://there-${process.pid}').catch((error) => ({ text: () => String(error.cause) }));
      answer.end('here and ' + await other.text());
    }).listen(80)`,
  );
  const { NetworkSettings } = (await docker.ask("GET", `/containers/${near}/json`)) as {
    NetworkSettings: { Ports: Record<string, { HostPort: string }[]> };
  };
  const port = NetworkSettings.Ports["80/tcp"]?.[0]?.HostPort;
  const said = async (): Promise<string> => {
    const answer = await fetch(`http://127.0.0.1:${port}`, { headers: { connection: "close" } }).catch(() => undefined);
    return (await answer?.text()) ?? "";
  };
  await until(async () => (await said()) === "here and there");
});
