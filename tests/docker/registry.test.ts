/** The image registry of the tests, and the smallest image that they have. */
import { expect, test } from "@jest/globals";
import { registryHeaders, testDocker, testRegistry, type TestDocker } from "@bowline/testing";

const image = "testing/busybox:1";

async function pull(docker: TestDocker, reference: string, password?: string): Promise<unknown> {
  const headers = password === undefined ? {} : registryHeaders({ username: "robot", password });
  return await docker.ask("POST", `/images/create?fromImage=${reference}`, undefined, headers);
}

test("what is pushed is pulled, by tag and by digest", async () => {
  const docker = await testDocker();
  await docker.importBusybox(image);
  const { reference, pinned } = await (await testRegistry()).push(docker, image, "shop/web:1");
  expect(await pull(docker, reference)).toContain("Status: ");
  expect(await pull(docker, pinned)).toContain("Status: ");
  await docker.ask("DELETE", `/images/${reference}?noprune=1`);
});

test("with users, nobody else pulls; and a changed password counts from the next pull on", async () => {
  const docker = await testDocker();
  await docker.importBusybox(image);
  const registry = await testRegistry({ users: { robot: "first password" } });
  const { reference } = await registry.push(docker, image, "shop/web:1");
  await expect(pull(docker, reference)).rejects.toThrow("no basic auth credentials");
  await expect(pull(docker, reference, "wrong")).rejects.toThrow("unauthorized");
  await pull(docker, reference, "first password");
  registry.setUsers({ robot: "second password" });
  await expect(pull(docker, reference, "first password")).rejects.toThrow();
  await pull(docker, reference, "second password");
  await docker.ask("DELETE", `/images/${reference}?noprune=1`);
});
