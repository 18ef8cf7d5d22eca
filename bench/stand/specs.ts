/** What every command of the benchmarks is about: one container, as small as an ordinary one is. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Deployment_Desired, type DeploymentSchema } from "@bowline/contract/deployments";

export const benchSpec: MessageInitShape<typeof DeploymentSchema> = {
  desired: Deployment_Desired.RUNNING,
  workloads: [
    {
      name: "web",
      image: "registry.example.com/shop/web@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
      command: ["/usr/local/bin/web"],
      args: ["--listen", "0.0.0.0:8080", "--log", "json"],
      environment: { REGION: "eu-central-1", DATABASE: "orders", LOG_LEVEL: "info" },
    },
  ],
  labels: { team: "shop" },
};
