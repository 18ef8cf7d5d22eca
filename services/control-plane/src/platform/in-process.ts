/**
 * Calls services in this process, through the same interceptors as over the
 * port: for tests of slices. It speaks no wire; the port's own tests do.
 */
import type { DescService } from "@bufbuild/protobuf";
import {
  type Client,
  type ConnectRouter,
  ConnectError,
  createClient,
  createRouterTransport,
} from "@connectrpc/connect";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { type CallPorts, createAround } from "./calls.ts";
import { interceptors } from "./interceptors.ts";

export interface InProcess {
  /** A client that sends this API token; without one it sends none. */
  as<Service extends DescService>(service: Service, token?: string): Client<Service>;
}

/** `authenticate` is identity's; what is logged as a defect goes to `log.error`. */
export function inProcess(
  register: (router: ConnectRouter) => void,
  ports: Pick<CallPorts, "authenticate"> & Partial<CallPorts>,
): InProcess {
  const around = createAround({
    log: {
      info: () => {},
      error: (fields, message) => {
        throw new Error(message, { cause: "error" in fields ? fields.error : fields });
      },
    },
    observe: () => {},
    ...ports,
  });
  return {
    as(service, token) {
      const transport = createRouterTransport(register, {
        router: { interceptors: interceptors(around) },
        transport: {
          interceptors: [
            (next) => (request) => {
              if (token !== undefined) request.header.set("authorization", `Bearer ${token}`);
              return next(request);
            },
          ],
        },
      });
      return createClient(service, transport);
    },
  };
}

/** The stable reason with which a call was refused; `ok` where it was not. Throws what has no reason. */
export async function reasonOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "ok";
  } catch (error) {
    const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
    if (info === undefined) throw error;
    return info.reason;
  }
}
