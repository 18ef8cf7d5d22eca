/** E5 over a real stream: what was claimed is what is fetched, whatever is committed meanwhile. */
import { beforeAll, expect, test } from "@jest/globals";
import { Command_State as State } from "@bowline/contract/commands";
import { DeploymentService } from "@bowline/contract/deployments";
import {
  ProductPublish_State as PublishState,
  ProductPublishService,
  ProductService,
} from "@bowline/contract/products";
import { SecretService } from "@bowline/contract/secrets";
import { startServer, type TestServer } from "@bowline/testing";
import { refusal } from "./api.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});

test("generation 9 is committed between the claim and the fetch of 8: 8 is what runs and is called 8", async () => {
  const agent = await server.scriptedAgent({ cluster: "generations" });
  const publish = () => server.operator.publish("shop", { to: "generations", backendUrl: "http://127.0.0.1:9" });
  const take = async (pushed = agent.nextCommand()) => {
    const command = await pushed;
    await agent.receive(command);
    await agent.report(command, { succeeded: true });
    return command;
  };
  await publish();
  await take(); // the data plane
  await take();
  for (let generation = 2; generation <= 7; generation += 1) {
    await publish();
    expect(await take()).toMatchObject({ generation });
  }

  const eighth = await publish();
  const claimed = await agent.nextCommand();
  expect(claimed).toMatchObject({ generation: 8, productPublishId: eighth.id });
  const ninth = await publish();
  expect(ninth.targets[0]).toMatchObject({ deploymentId: claimed.deploymentId, generation: 9 });

  const spec = await agent.receive(claimed);
  expect(spec).toMatchObject({ generation: 8, routes: { productPublishId: eighth.id, revision: eighth.revision } });
  await server.operator.commandIn(claimed.commandId, State.RUNNING);
  expect(await agent.report(claimed, { succeeded: true })).toBe("RECORDED");
  const deployment = () => server.client(DeploymentService).getDeployment({ id: claimed.deploymentId });
  expect(await deployment()).toMatchObject({ generation: 9, observedGeneration: 8 });
  const pushed = await agent.nextCommand(); // by then it is claimed
  expect(pushed).toMatchObject({ generation: 9, productPublishId: ninth.id, attempt: 1 });
  expect(await server.operator.publishOf(ninth.id)).toMatchObject({ state: PublishState.DISPATCHED });

  await take(Promise.resolve(pushed));
  expect(await deployment()).toMatchObject({ generation: 9, observedGeneration: 9 });
  expect(await server.operator.publishOf(ninth.id)).toMatchObject({ state: PublishState.LIVE });
});

test("a secret stays while a command in flight brings it, though what is published next is without it", async () => {
  const agent = await server.scriptedAgent({ cluster: "keyed" });
  const [products, secrets] = [server.client(ProductService), server.client(SecretService)];
  const apply = async (secret?: string) => {
    const secretHeaders = secret === undefined ? [] : [{ name: "X-Key", secret }];
    await products.applyProduct({
      manifest: {
        name: "keyed",
        apiServices: [
          {
            name: "main",
            backends: [{ name: "upstream", url: "http://127.0.0.1:9", secretHeaders }],
            routes: [
              { name: "all", matches: [{ path: { type: 2, value: "/keyed" } }], backends: [{ backend: "upstream" }] },
            ],
          },
        ],
      },
    });
  };
  const publish = () =>
    server.client(ProductPublishService).createProductPublish({ productId: "keyed", clusterId: "keyed" });
  await secrets.createSecret({ name: "upstream-key", value: "open-sesame" });
  await apply("upstream-key");
  await publish();
  const dataPlane = await agent.nextCommand();
  await agent.receive(dataPlane);
  await agent.report(dataPlane, { succeeded: true });

  const claimed = await agent.nextCommand();
  await apply();
  await publish();
  const remove = () => secrets.deleteSecret({ id: "upstream-key" });
  expect((await refusal(remove())).reason).toBe("SECRET_IN_USE");
  expect(await agent.receive(claimed)).toMatchObject({ generation: 1 });
  expect(await agent.report(claimed, { succeeded: true })).toBe("RECORDED");
  await remove();
});
