/** Every service of the contract. Servers, REST, OpenAPI, access tests and documents read this list. */
import { AgentService, PollingService, TunnelPollingService, TunnelService } from "./agent.ts";
import { AgentsService } from "./agents.ts";
import { AuditService } from "./audit.ts";
import { ClusterService, RegistrationTokenService } from "./clusters.ts";
import { CommandService } from "./commands.ts";
import { DeploymentService } from "./deployments.ts";
import { AuthService, OrganisationService, ServiceAccountService } from "./identity.ts";
import { InstallationService } from "./installation.ts";
import { InstanceService } from "./instances.ts";
import { ApiServiceService, GatewayService, ProductPublishService, ProductService } from "./products.ts";
import { RegistryService } from "./registries.ts";
import { SecretService } from "./secrets.ts";
import { RolloutService, StackService } from "./stacks.ts";

export const services = [
  AgentService,
  AgentsService,
  ApiServiceService,
  AuditService,
  AuthService,
  ClusterService,
  CommandService,
  DeploymentService,
  GatewayService,
  InstallationService,
  InstanceService,
  OrganisationService,
  PollingService,
  ProductPublishService,
  ProductService,
  RegistrationTokenService,
  RegistryService,
  RolloutService,
  SecretService,
  ServiceAccountService,
  StackService,
  TunnelPollingService,
  TunnelService,
] as const;
