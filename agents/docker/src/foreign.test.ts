import { expect, test } from "@jest/globals";
import { toJson } from "@bufbuild/protobuf";
import { ForeignContainerSchema } from "@bowline/contract/agents";
import { foreignOf } from "./foreign.ts";

const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;

/** As an engine lists it, with more than is told. */
const listed = {
  ...{ Id: "c".repeat(64), Names: ["/web/alias", "/shop-db-1"], Image: "registry.example/db:16", ImageID: digest("1") },
  ...{ Command: "db --password=hunter2", Created: 1_700_000_000, State: "running", Status: "Up 3 hours (healthy)" },
  Labels: {
    ...{ "com.docker.compose.project": "shop", "com.docker.compose.service": "db" },
    ...{ "com.docker.compose.project.config_files": "/root/shop.yaml", token: "hunter2" },
  },
  Ports: [
    { IP: "0.0.0.0", PrivatePort: 5432, PublicPort: 15432, Type: "tcp" },
    { PrivatePort: 53, Type: "udp" },
  ],
  Mounts: [{ Type: "bind", Source: "/root/data", Destination: "/data" }],
  NetworkSettings: { Networks: { shop_default: { IPAddress: "172.18.0.2" }, edge: {} } },
  HostConfig: { NetworkMode: "shop_default" },
};

test("what is told of another's container is what it is and how it is, and nothing of what it was started with", () => {
  const told = toJson(
    ForeignContainerSchema,
    foreignOf(listed, [`other/db@${digest("2")}`, `registry.example/db@${digest("3")}`]),
  );
  expect(told).toEqual({
    ...{ id: "c".repeat(64), name: "shop-db-1", image: "registry.example/db:16", imageDigest: digest("3") },
    ...{ state: "RUNNING", status: "Up 3 hours (healthy)", health: "HEALTHY", createdAt: "2023-11-14T22:13:20Z" },
    ports: [
      { container: 53, protocol: "udp" },
      { container: 5432, published: 15432, hostAddress: "0.0.0.0", protocol: "tcp" },
    ],
    ...{ networks: ["edge", "shop_default"], composeProject: "shop", composeService: "db" },
  });
  for (const secret of ["hunter2", "/root", "172.18"]) expect(JSON.stringify(told)).not.toContain(secret);
});

test("a container that an engine tells little of is told with what there is", () => {
  const bare = {
    Id: "d",
    Names: null,
    Image: `i@${digest("4")}`,
    ImageID: "",
    Created: 0,
    State: "thawing",
    Status: "",
  };
  expect(toJson(ForeignContainerSchema, foreignOf(bare, []))).toEqual({
    ...{ id: "d", image: `i@${digest("4")}`, imageDigest: digest("4"), createdAt: "1970-01-01T00:00:00Z" },
  });
  const other = foreignOf({ ...bare, Labels: { "bowline.agent": "another" } }, []);
  expect(other.bowlineAgent).toBe("another");
});
