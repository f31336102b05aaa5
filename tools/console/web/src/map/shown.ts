/** The trucks and open visits that the map and its lists show: those of now, or those at the time of the replay. */

import { computed, signal } from "@preact/signals";

import { now } from "../time_format";
import type { Replay, Visit } from "../contract";
import { there, trucks } from "../live";
import { link, type Params, param } from "../route";
import { isContradicted, isOverdue, stateOf } from "../truck_state";
import { frame, type Shown } from "./replay";

/** The current replay, if any; kept while other views are open. */
export const replay = signal<Replay | null>(null);
export const replayAt = signal(0);

/** Trucks and open visits now, or at the time of the replay. */
export const shown = computed<{ trucks: Shown[]; there: Visit[] }>(() => {
  if (replay.value) return frame(replay.value, replayAt.value);
  const placed = [...trucks.value.values()].flatMap((truck) =>
    truck.position
      ? [{ ...truck, position: truck.position, at: Date.parse(truck.at), heardAt: Date.parse(truck.heard_at) }]
      : [],
  );
  return { trucks: placed, there: there.value };
});

export const LISTED = 300;

export const moment = (): number => (replay.value ? replayAt.value : now.value);

/** The time in steps of ten seconds, because every change is drawn, and trucks rarely become overdue or silent. */
export const coarseMoment = computed(() => Math.floor(moment() / 10_000) * 10_000);

const overdue = computed(
  () => new Set(shown.value.there.filter((visit) => isOverdue(visit, coarseMoment.value)).map((visit) => visit.device_id)),
);

export const stated = computed(() =>
  shown.value.trucks.map((truck) => ({ ...truck, state: stateOf(truck, overdue.value, coarseMoment.value) })),
);

/** A link to a truck or place on this map. The replay adds its own time to the address. */
export const onMap = (params: Params): string => link("map", { ...params, tiles: param("tiles") });

export const present = (visits: Visit[]): Visit[] => visits.filter((visit) => !isContradicted(visit));
