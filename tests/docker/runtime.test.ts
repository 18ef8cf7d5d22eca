/** The Docker runtime in the conformance suite of runtimes, against a real Docker Engine. */
import { describeRuntime } from "../conformance/runtimes/suite/index.ts";
import { dockerPlace } from "./runtime-place.ts";

describeRuntime(
  "docker",
  { place: () => dockerPlace() },
  {
    starting: [
      "docker.before-create",
      "docker.before-files",
      "docker.after-create",
      "docker.before-start",
      "docker.after-start",
    ],
    // The first two creations and starts belong to the first generation.
    updating: [
      "docker.before-create@3",
      "docker.after-create@4",
      "docker.after-start@3",
      "docker.before-stop",
      "docker.before-commit@2",
      "docker.after-commit@2",
    ],
    removing: ["docker.before-removal", "docker.before-stop", "docker.before-erasure"],
    forwarding: ["docker.before-forwards", "docker.after-forwards", "docker.after-commit"],
  },
);
