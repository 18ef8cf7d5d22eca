/** What differs between two manifests of a product, route by route. */
import { create, equals, toJsonString } from "@bufbuild/protobuf";
import { BackendSchema, HttpRouteSchema } from "@bowline/contract/deployments";
import {
  type ApiServiceManifest,
  type Change,
  Change_Kind,
  ChangeSchema,
  type ProductManifest,
} from "@bowline/contract/products";
import { byName } from "./snapshot.ts";

/**
 * The differences, in order of path. Paths are of names: `api_services/hello/routes/time`; the product's own fields
 * are `display_name` and the like. Without `before` or `after` the product itself (`product`) is new or gone.
 */
export function diffManifests(before: ProductManifest | undefined, after: ProductManifest | undefined): Change[] {
  const changes: Change[] = [];
  if (before === undefined || after === undefined) {
    const json = (manifest: ProductManifest | undefined) =>
      manifest === undefined ? undefined : texts({ name: manifest.name, ...about(manifest) });
    note(changes, "product", json(before), json(after));
  } else {
    note(changes, "name", JSON.stringify(before.name), JSON.stringify(after.name));
    noteAbout(changes, "", before, after);
  }
  for (const [name, was, is] of pairs(before?.apiServices ?? [], after?.apiServices ?? []))
    diffApiServices(changes, `api_services/${name}`, was, is);
  return changes;
}

function diffApiServices(
  changes: Change[],
  path: string,
  before: ApiServiceManifest | undefined,
  after: ApiServiceManifest | undefined,
): void {
  if (before === undefined || after === undefined)
    note(changes, path, before && texts(about(before)), after && texts(about(after)));
  else noteAbout(changes, `${path}/`, before, after);
  for (const [name, was, is] of pairs(before?.routes ?? [], after?.routes ?? [])) {
    if (was !== undefined && is !== undefined && equals(HttpRouteSchema, was, is)) continue;
    const json = (route: typeof was) => route && toJsonString(HttpRouteSchema, route);
    note(changes, `${path}/routes/${name}`, json(was), json(is));
  }
  for (const [name, was, is] of pairs(before?.backends ?? [], after?.backends ?? [])) {
    if (was !== undefined && is !== undefined && equals(BackendSchema, was, is)) continue;
    const json = (backend: typeof was) => backend && toJsonString(BackendSchema, backend);
    note(changes, `${path}/backends/${name}`, json(was), json(is));
  }
}

type Described = { displayName: string; description: string };

function about({ displayName, description }: Described): Described {
  return { displayName, description };
}

function noteAbout(changes: Change[], prefix: string, before: Described, after: Described): void {
  note(changes, `${prefix}display_name`, JSON.stringify(before.displayName), JSON.stringify(after.displayName));
  note(changes, `${prefix}description`, JSON.stringify(before.description), JSON.stringify(after.description));
}

/** JSON of texts without the empty ones, as proto3 JSON leaves them out. */
function texts(fields: Record<string, string>): string {
  return JSON.stringify(Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "")));
}

/** Adds a change unless both sides are the same. */
function note(changes: Change[], path: string, before: string | undefined, after: string | undefined): void {
  if (before === after) return;
  const kind =
    before === undefined ? Change_Kind.ADDED : after === undefined ? Change_Kind.REMOVED : Change_Kind.CHANGED;
  changes.push(create(ChangeSchema, { kind, path, before: before ?? "", after: after ?? "" }));
}

/** What both sides call the same, by name. */
function* pairs<Item extends { name: string }>(
  before: readonly Item[],
  after: readonly Item[],
): Generator<[name: string, before: Item | undefined, after: Item | undefined]> {
  const was = new Map(before.map((item) => [item.name, item]));
  const is = new Map(after.map((item) => [item.name, item]));
  const names = [...new Set([...was.keys(), ...is.keys()])].map((name) => ({ name })).sort(byName);
  for (const { name } of names) yield [name, was.get(name), is.get(name)];
}
