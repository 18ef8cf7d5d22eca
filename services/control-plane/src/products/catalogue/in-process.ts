/** The catalogue in this process with two organisations and a caller of each role: for its own tests. */
import type { DescService } from "@bufbuild/protobuf";
import { type Client, ConnectError } from "@connectrpc/connect";
import type { RoleName } from "@bowline/contract";
import { BadRequestSchema } from "@bowline/contract/errors";
import { newId } from "@bowline/kernel";
import type { Caller, Principal } from "../../platform/context.ts";
import { createEvents } from "../../platform/events.ts";
import { inProcess } from "../../platform/in-process.ts";
import type { Db } from "../../platform/transactions.ts";
import { type Catalogue, createCatalogue } from "./index.ts";

export interface CatalogueInProcess {
  catalogue: Catalogue;
  /** A client for `alpha` (a provider), `beta` (a provider of another organisation) or `alpha/viewer`, `beta/admin`. */
  as: <Service extends DescService>(service: Service, who: string) => Client<Service>;
  /** The same as a caller of the front door. */
  caller: (who: string) => Caller;
  /** Gateways whose data planes were to be changed, in order. */
  gatewaysChanged: string[];
  /** The fields that a refused call names. */
  violationsOf: (call: Promise<unknown>) => Promise<string[]>;
}

export async function catalogueInProcess(db: Db): Promise<CatalogueInProcess> {
  const events = createEvents(db, { error: () => {} });
  const ids = new Map<string, string>();
  for (const name of ["alpha", "beta"]) {
    const id = newId("org");
    ids.set(name, id);
    await db.insertInto("organisations").values({ id, name }).execute();
  }
  const gatewaysChanged: string[] = [];
  const catalogue = createCatalogue({
    db,
    events,
    gatewayChanged: async (_, gatewayId) => void gatewaysChanged.push(gatewayId),
  });
  const principalOf = (who: string): Principal => {
    const [organisation = "", role = "provider"] = who.split("/");
    const organisationId = ids.get(organisation);
    if (organisationId === undefined) throw new Error(`no organisation ${organisation}`);
    return {
      kind: "service-account",
      id: `sa ${who}`,
      name: who,
      role: role as RoleName,
      organisationId,
      organisation,
    };
  };
  const authenticate = async (headers: Headers) =>
    principalOf((headers.get("authorization") ?? "").replace("Bearer ", ""));
  const api = inProcess(catalogue.register, { authenticate });
  return {
    catalogue,
    as: (service, who) => api.as(service, who),
    caller: (who) => ({ principal: principalOf(who), request: { requestId: "test", remoteAddress: "" } }),
    gatewaysChanged,
    async violationsOf(call) {
      const error = await call.then(
        () => new Error("the call was not refused"),
        (failure: unknown) => failure,
      );
      if (!(error instanceof ConnectError)) throw error;
      return error.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations.map(({ field }) => field));
    },
  };
}
