import type { Route } from "../routes.ts";
export type OpenApiInfo = { title?: string; version?: string; serverUrl?: string };
export function openApiDocument(_routes: readonly Route[], _info?: OpenApiInfo): object {
  return {};
}
