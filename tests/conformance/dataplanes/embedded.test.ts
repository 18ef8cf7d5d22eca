/** The conformance suite of data planes, run with the class `embedded`. */
import { embeddedDataPlane } from "@bowline/dataplane-embedded";
import { filters } from "./suite/filters.ts";
import { forwarding } from "./suite/forwarding.ts";
import { load } from "./suite/load.ts";
import { matching } from "./suite/matching.ts";
import { publishing } from "./suite/publishing.ts";
import { robustness } from "./suite/robustness.ts";

const dataPlane = embeddedDataPlane({ backendWaitScale: 0.01 });

publishing(dataPlane);
matching(dataPlane);
filters(dataPlane);
forwarding(dataPlane);
load(dataPlane);
robustness(dataPlane);
