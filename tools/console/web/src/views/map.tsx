/** The map. Its replay bar and the cards and lists beside it are in their own files. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { ask } from "../api";
import { minuteTime } from "../time_format";
import type { Fence, Position, Trail } from "../contract";
import { connections, fences, snapshots, stage, trucks } from "../live";
import type { Chart } from "../map/canvas";
import { type Passed, trailAt } from "../map/replay";
import { present, replay, replayAt, shown, stated } from "../map/shown";
import { choose, param } from "../route";
import { isDark } from "../theme";
import { STATES, type TruckState } from "../truck_state";
import { Empty, Loading, useAsked } from "../ui";
import { AtAPlaceNow } from "./at_a_place_now";
import { FenceCard } from "./fence_card";
import { ReplayBar } from "./replay_bar";
import { SilentTrucks } from "./silent_trucks";
import { TruckCard } from "./truck_card";
import { TruckList } from "./truck_list";

export function MapView() {
  const truck = param("truck");
  const fence = param("fence");
  return (
    <div class="map-view">
      <h1 class="unseen">Map</h1>
      <div class="map-pane">
        <Canvas truck={truck} fence={fence} />
        <ReplayBar />
      </div>
      <div class="map-side">
        {truck && <TruckCard device={truck} />}
        {fence && <FenceCard id={fence} />}
        <AtAPlaceNow />
        <SilentTrucks />
        <TruckList chosen={truck} />
      </div>
    </div>
  );
}

const NOT_LOADED = "The console’s server does not answer or was updated. Reload this page.";

const centresOf = (all: Fence[]): Position[] => all.flatMap((fence) => (fence.centre ? [fence.centre] : []));

function Canvas({ truck, fence }: { truck: string; fence: string }) {
  const element = useRef<HTMLDivElement>(null);
  const chart = useSignal<Chart | null>(null);
  const problem = useSignal("");
  const chosenTruck = useComputed(() => truck);
  const tiles = param("tiles") ? (stage.value?.tiles ?? null) : null;

  useEffect(() => {
    let gone = false;
    let made: Chart | null = null;
    import("../map/canvas")
      .catch(() => {
        throw new Error(NOT_LOADED);
      })
      .then(({ Chart }) =>
        Chart.make(element.current as HTMLElement, {
          dark: isDark.peek(),
          tiles,
          onPick: (picked) => choose({ truck: picked.truck ?? null, fence: picked.fence ?? null }),
        }),
      )
      .then(
        (ready) => {
          made = ready;
          if (gone) ready.remove();
          else chart.value = ready;
        },
        (error: Error) => (problem.value = error.message),
      );
    return () => {
      gone = true;
      made?.remove();
      chart.value = null;
    };
  }, [tiles]);

  useSignalEffect(() => chart.value?.theme(isDark.value));
  const trail = useTrail(truck);
  useEffect(() => {
    const current = chart.value;
    if (!current) return;
    const counts = new Map<string, number>();
    for (const visit of present(shown.value.there)) counts.set(visit.fence_id, (counts.get(visit.fence_id) ?? 0) + 1);
    const allFences = [...fences.value.values()];
    current.fences(allFences, counts, fence);
    current.trucks(stated.value, chosenTruck.value);
    current.trail(trail, minuteTime);
    current.fit(stated.value, centresOf(allFences));
  }, [chart.value, stated.value, shown.value, fences.value, truck, fence, trail]);

  // Centre the map on the truck or place that was chosen in a list or by a link.
  useEffect(() => {
    const at = truck
      ? shown.peek().trucks.find((each) => each.device_id === truck)?.position
      : fences.peek().get(fence)?.centre;
    if (!at || !chart.value) return;
    chart.value.show(at);
    // On a phone the lists are below the map.
    element.current?.scrollIntoView({ block: "nearest" });
  }, [chart.value, truck, fence]);

  const fitAll = (): void => {
    chart.value?.fit(shown.value.trucks, centresOf([...fences.value.values()]), true);
  };
  return (
    <div class="map-frame">
      <div ref={element} class="map" />
      {!chart.value && !problem.value && <Loading what="Loading the map …" />}
      {problem.value && (
        <div class="map-problem">
          <Empty title={problem.value === NOT_LOADED ? "The map could not be loaded." : "This browser cannot draw the map."}>
            {problem.value} The lists have the same information.
          </Empty>
        </div>
      )}
      <ul class="map-legend" aria-label="Legend">
        {STATES.map((state) => (
          <li key={state}>
            <span class={`truck-mark ${state.replace(" ", "-")}`} aria-hidden="true" /> {STATE_WORDS[state]}
          </li>
        ))}
      </ul>
      <div class="map-tools">
        <button type="button" onClick={fitAll}>
          Show all
        </button>
        {stage.value?.tiles && (
          <button type="button" aria-pressed={tiles !== null} onClick={() => choose({ tiles: tiles ? null : "1" })}>
            Online tiles
          </button>
        )}
      </div>
    </div>
  );
}

const STATE_WORDS: Record<TruckState, string> = {
  moving: "moving",
  "at place": "at a place",
  stopped: "stopped",
  late: "overdue",
  silent: "silent",
};

/** The chosen truck's trail: the positions known to the server, and those received since. */
function useTrail(device: string): Passed[] {
  const asked = useAsked(
    device ? (signal) => ask<Trail>(`/api/trucks/${encodeURIComponent(device)}/trail`, {}, { signal }) : null,
    [device, connections.value],
    [snapshots.value],
  );
  const since = useRef<Passed[]>([]);
  useEffect(() => {
    since.current = [];
  }, [device, asked.data]);
  const played = replay.value;
  const result = useRef<Passed[]>([]);
  const liveTruck = trucks.value.get(device);
  const here = liveTruck?.position;
  if (played) return trailAt(played, device, replayAt.value);
  if (!device || asked.data?.device_id !== device) {
    if (result.current.length > 0) result.current = [];
    return result.current;
  }
  const last = since.current.at(-1)?.[1];
  if (liveTruck && here && (last?.[0] !== here[0] || last[1] !== here[1])) since.current.push([Date.parse(liveTruck.at), here]);
  const length = asked.data.points.length + since.current.length;
  if (result.current.length !== length)
    result.current = [...asked.data.points.map(([at, lon, lat]): Passed => [at, [lon, lat]]), ...since.current];
  return result.current;
}
