/** The API as a principal's clients, and how a refusal reads. */
import { Code, ConnectError, type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { DeploymentService } from "@bowline/contract/deployments";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { AuthService, OrganisationService, ServiceAccountService } from "@bowline/contract/identity";
import { InstallationService } from "@bowline/contract/installation";
import { GatewayService, ProductPublishService, ProductService } from "@bowline/contract/products";
import { SecretService } from "@bowline/contract/secrets";
import { RolloutService, StackService } from "@bowline/contract/stacks";

export interface Api {
  url: string;
  agents: Client<typeof AgentsService>;
  audit: Client<typeof AuditService>;
  auth: Client<typeof AuthService>;
  clusters: Client<typeof ClusterService>;
  commands: Client<typeof CommandService>;
  deployments: Client<typeof DeploymentService>;
  gateways: Client<typeof GatewayService>;
  installation: Client<typeof InstallationService>;
  organisations: Client<typeof OrganisationService>;
  products: Client<typeof ProductService>;
  publishes: Client<typeof ProductPublishService>;
  rollouts: Client<typeof RolloutService>;
  secrets: Client<typeof SecretService>;
  stacks: Client<typeof StackService>;
  accounts: Client<typeof ServiceAccountService>;
  tokens: Client<typeof RegistrationTokenService>;
}

/** One connection per call: nothing stays open. `ca`: PEM of whom to trust, for https. */
export function openApi(url: string, token: string, ca?: string): Api {
  const authorise: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion: "1.1",
    interceptors: [authorise],
    nodeOptions: ca === undefined ? { agent: false } : { agent: false, ca },
  });
  return {
    url,
    agents: createClient(AgentsService, transport),
    audit: createClient(AuditService, transport),
    auth: createClient(AuthService, transport),
    clusters: createClient(ClusterService, transport),
    commands: createClient(CommandService, transport),
    deployments: createClient(DeploymentService, transport),
    gateways: createClient(GatewayService, transport),
    installation: createClient(InstallationService, transport),
    organisations: createClient(OrganisationService, transport),
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
    rollouts: createClient(RolloutService, transport),
    secrets: createClient(SecretService, transport),
    stacks: createClient(StackService, transport),
    accounts: createClient(ServiceAccountService, transport),
    tokens: createClient(RegistrationTokenService, transport),
  };
}

/** The code and the stable reason with which a call is refused. Throws if it is not. */
export async function refusal(call: Promise<unknown>): Promise<{ code: string; reason: string; message: string }> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    const reason = error.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
    return { code: Code[error.code], reason, message: error.rawMessage };
  }
  throw new Error("the call was not refused");
}
