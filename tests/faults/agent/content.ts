/** One digest per content, the same for who makes it true and for who wanted it. */
import { createHash } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import { DataPlaneSchema, RoutesSchema, type Deployment } from "@bowline/contract/deployments";

/** Of routes, or of a data plane; what has neither has none. */
export function contentOf({ routes, dataPlane }: Partial<Pick<Deployment, "routes" | "dataPlane">>): string {
  const hash = createHash("sha256");
  if (routes !== undefined) return hash.update(toBinary(RoutesSchema, routes)).digest("hex").slice(0, 16);
  if (dataPlane !== undefined) return hash.update(toBinary(DataPlaneSchema, dataPlane)).digest("hex").slice(0, 16);
  return "";
}
