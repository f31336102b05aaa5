/** A truck's state, which decides its colour and shape on the map, and whether a visit is overdue or contradicted. */

import type { Visit } from "./contract";
import type { Shown } from "./map/replay";

export type TruckState = "moving" | "at place" | "stopped" | "late" | "silent";
export const STATES: readonly TruckState[] = ["moving", "at place", "stopped", "late", "silent"];

/** A truck without events for this long is silent, because phones of moving trucks send an event every few minutes. */
export const SILENT_MS = 15 * 60_000;
const STANDING_KMH = 2;
/** A truck is overdue if it stays longer than this multiple of the usual dwell time at the place. */
const OVERDUE = 2;

export const isContradicted = (visit: Visit): boolean => visit.contradicted_by_event_id !== null;

export function isOverdue(visit: Visit, at: number): boolean {
  if (visit.usual_dwell_seconds === null || isContradicted(visit)) return false;
  return at - Date.parse(visit.entered_at) > OVERDUE * visit.usual_dwell_seconds * 1000;
}

export function stateOf(truck: Shown, overdue: ReadonlySet<string>, at: number): TruckState {
  if (overdue.has(truck.device_id)) return "late";
  if (at - truck.heardAt > SILENT_MS) return "silent";
  if (truck.inside.length > 0) return "at place";
  if (truck.heading === null || (truck.speed_kmh !== null && truck.speed_kmh < STANDING_KMH)) return "stopped";
  return "moving";
}
