/** AuditService. */
import { create } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  AuditService,
  ListAuditEventsResponseSchema,
  type WatchAuditEventsResponse,
  WatchAuditEventsResponseSchema,
} from "@bowline/contract/audit";
import type { Events } from "../platform/events.ts";
import type { Db } from "../platform/transactions.ts";
import { watch } from "../platform/watch.ts";
import { auditEventOf, findAuditEvent, listAuditEvents, newestAuditEvents } from "./queries.ts";

export interface AuditPorts {
  db: Db;
  events: Events;
}

/** What a watch without a cursor starts with: a screenful. */
const snapshotCount = 100;

export function registerAudit(router: ConnectRouter, { db, events }: AuditPorts): void {
  router.service(AuditService, {
    listAuditEvents: async (request) => {
      const { rows, nextPageToken } = await listAuditEvents(db, request);
      return create(ListAuditEventsResponseSchema, { auditEvents: rows.map(auditEventOf), nextPageToken });
    },
    watchAuditEvents: (request, context) =>
      watch<WatchAuditEventsResponse>(
        events,
        request.cursor,
        {
          topic: "audit",
          snapshot: async function* () {
            for (const auditEvent of await newestAuditEvents(db, snapshotCount))
              yield create(WatchAuditEventsResponseSchema, { auditEvent });
          },
          wants: () => true,
          read: async (event) => {
            const auditEvent = await findAuditEvent(db, event.subjectId);
            return auditEvent === undefined ? undefined : create(WatchAuditEventsResponseSchema, { auditEvent });
          },
          empty: () => create(WatchAuditEventsResponseSchema),
          withCursor: (message, cursor) => Object.assign(message, { cursor }),
        },
        context.signal,
      ),
  });
}
