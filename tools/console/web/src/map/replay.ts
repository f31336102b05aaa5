/** A replay of a time range of the archive: where each truck was at a given time, and in which fences. */

import type { Position, Replay, ReplayTruck, Visit } from "../contract";

/** A truck on the map, live or replayed. `at` is epoch ms by its own clock. */
export interface Shown {
  device_id: string;
  position: Position;
  heading: number | null;
  speed_kmh: number | null;
  at: number;
  /** The time of its last event, in epoch ms. */
  heardAt: number;
  silence: string;
  inside: string[];
}

/** If two positions are further apart in time than this, the route is unknown, so the truck stays at the first one. */
const GAP_MS = 15 * 60_000;
const STANDING_KM = 0.03;

/** The number of `times` that are not after `t`. */
function upTo(times: number[], t: number): number {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] as number) <= t) low = middle + 1;
    else high = middle;
  }
  return low;
}

function kmAndHeading(from: Position, to: Position): { km: number; heading: number } {
  const east = (to[0] - from[0]) * Math.cos((from[1] * Math.PI) / 180);
  const north = to[1] - from[1];
  return { km: Math.hypot(east, north) * 111.2, heading: ((Math.atan2(east, north) * 180) / Math.PI + 360) % 360 };
}

const positionOf = (truck: ReplayTruck, i: number): Position => [truck.lon[i] as number, truck.lat[i] as number];

function truckAt(truck: ReplayTruck, from: number, t: number): Omit<Shown, "inside"> | null {
  const n = upTo(truck.t, t);
  if (n === 0) return null;
  const here = positionOf(truck, n - 1);
  const since = truck.t[n - 1] as number;
  const still = { device_id: truck.device_id, position: here, heading: null, speed_kmh: null, at: from + since, heardAt: from + since, silence: "" };
  if (n === truck.t.length) return still;
  const next = positionOf(truck, n);
  const gap = (truck.t[n] as number) - since;
  const { km, heading } = kmAndHeading(here, next);
  if (gap > GAP_MS || km < STANDING_KM) return still;
  const share = (t - since) / gap;
  return {
    ...still,
    position: [here[0] + share * (next[0] - here[0]), here[1] + share * (next[1] - here[1])],
    heading,
    speed_kmh: km / (gap / 3_600_000),
    at: from + t,
    heardAt: from + t,
  };
}

export function insideAt(visits: Visit[], at: number): Visit[] {
  const inside = visits.filter((visit) => {
    if (Date.parse(visit.entered_at) > at) return false;
    if (visit.exited_at) return at < Date.parse(visit.exited_at);
    if (visit.exit_inferred_at) return at < Date.parse(visit.exit_inferred_at);
    return visit.open || (visit.last_seen_at !== null && at <= Date.parse(visit.last_seen_at));
  });
  // At that moment, no event contradicted these visits yet.
  return inside.map((visit) => ({ ...visit, contradicted_by_event_id: null }));
}

export function frame(replay: Replay, at: number): { trucks: Shown[]; there: Visit[] } {
  const from = Date.parse(replay.from);
  const there = insideAt(replay.visits, at);
  const trucks = replay.trucks.flatMap((truck) => {
    const shown = truckAt(truck, from, at - from);
    const inside = there.filter((v) => v.device_id === truck.device_id).map((v) => v.fence_id);
    return shown ? [{ ...shown, inside }] : [];
  });
  return { trucks, there };
}

/** A point of a truck's trail, and the time in epoch ms when the truck was there. */
export type Passed = [at: number, position: Position];

export function trailAt(replay: Replay, device: string, at: number): Passed[] {
  const truck = replay.trucks.find((each) => each.device_id === device);
  if (!truck) return [];
  const from = Date.parse(replay.from);
  const n = upTo(truck.t, at - from);
  return Array.from({ length: n }, (_, i): Passed => [from + (truck.t[i] as number), positionOf(truck, i)]);
}
