/** The conformance suite of data planes, run with the class `embedded`. */
import { embeddedDataPlane } from "@bowline/dataplane-embedded";
import { publishing } from "./suite/publishing.ts";

publishing(embeddedDataPlane({ backendWaitScale: 0.01 }));
