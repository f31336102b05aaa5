/** The map, and the cards beside it: a truck, a place, silent trucks and all trucks. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { ask } from "../api";
import { Age, ageText, clockTime, minuteTime, span, utc } from "../clock";
import type { Fence, Place, Position, Trail } from "../contract";
import { fenceName, fences, snapshots, stage, trucks, visitChanges } from "../live";
import type { Chart } from "../map/canvas";
import { type Passed, type Shown, trailAt } from "../map/replay";
import { coarseMoment, LISTED, moment, onMap, present, replay, replayAt, shown, stated } from "../map/shown";
import { choose, link, param } from "../route";
import { isDark } from "../theme";
import { SILENT_MS, STATES, type TruckState } from "../truck_state";
import { Copy, Empty, Loading, number, useAsked } from "../ui";
import { AtAPlaceNow } from "./at_a_place_now";
import { LastVisit } from "./places";
import { ReplayBar } from "./replay_bar";

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
        <SilentList />
        <TruckList chosen={truck} />
      </div>
    </div>
  );
}

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

  // Centre the map on what was chosen in a list or by a link.
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
          <Empty title="This browser cannot draw the map.">
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
    [device, snapshots.value],
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

function Inside({ truck }: { truck: Shown }) {
  const ids = truck.inside;
  if (ids.length === 0)
    return <span class="quiet">{moment() - truck.heardAt > SILENT_MS ? "silent" : "under way"}</span>;
  return (
    <>
      {ids.map((id, i) => (
        <span key={id}>
          {i > 0 && ", "}
          {fenceName(id)}
        </span>
      ))}
    </>
  );
}

function TruckCard({ device }: { device: string }) {
  const truck = shown.value.trucks.find((each) => each.device_id === device);
  const liveTruck = trucks.value.get(device);
  return (
    <section class="card" aria-label="The chosen truck">
      <div class="card-head">
        <h2 class="wrap">{device}</h2>
        <button type="button" onClick={() => choose({ truck: null })}>
          Close
        </button>
      </div>
      {!truck ? (
        <p class="quiet">No position of this truck is known{replay.value ? " at that time" : ""}.</p>
      ) : (
        <dl class="facts">
          <div>
            <dt>Where</dt>
            <dd>
              <Inside truck={truck} />
            </dd>
          </div>
          <div>
            <dt>Last heard from</dt>
            <dd>
              {replay.value ? clockTime(truck.heardAt) : <Age at={new Date(truck.heardAt).toISOString()} />}
              {!replay.value && " ago"}
            </dd>
          </div>
          {!replay.value && moment() - truck.heardAt > SILENT_MS && (
            <div>
              <dt>Likely reason for silence</dt>
              <dd>{truck.silence}</dd>
            </div>
          )}
          <div>
            <dt>Speed, heading</dt>
            <dd>
              {truck.speed_kmh === null ? "–" : `${number(truck.speed_kmh)} km/h`},{" "}
              {truck.heading === null ? "–" : `${number(truck.heading)}°`}
            </dd>
          </div>
          <div>
            <dt>Position</dt>
            <dd>
              {truck.position[1].toFixed(4)}, {truck.position[0].toFixed(4)}
              {!replay.value && liveTruck?.accuracy_m ? ` ± ${number(liveTruck.accuracy_m)} m` : ""}
            </dd>
          </div>
          {!replay.value && liveTruck && (
            <div>
              <dt>Last event</dt>
              <dd class="wrap">{liveTruck.last_type}</dd>
            </div>
          )}
        </dl>
      )}
      <p class="links">
        <a href={link("visits", { device, by: "truck" })}>Visits</a>
        <a href={link("events", { device })}>Events</a>
        <Copy text={location.href} label="Copy link" />
      </p>
    </section>
  );
}

function FenceCard({ id }: { id: string }) {
  const fence = fences.value.get(id);
  const inside = present(shown.value.there).filter((visit) => visit.fence_id === id);
  const from = { file: "read from the fence file", geometry: "sent with its events", events: "estimated from where phones crossed it" };
  const asked = useAsked(
    replay.value ? null : (signal) => ask<{ places: Place[] }>("/api/places", {}, { signal }),
    [id, replay.value === null, snapshots.value, visitChanges.value],
  );
  const place = asked.data?.places.find((each) => each.fence_id === id);
  return (
    <section class="card" aria-label="The chosen fence">
      <div class="card-head">
        <h2 class="wrap">{fence?.name ?? id}</h2>
        <button type="button" onClick={() => choose({ fence: null })}>
          Close
        </button>
      </div>
      <p>
        {inside.length === 0
          ? fence || !snapshots.value
            ? `No truck is there${replay.value ? "" : " now"}.`
            : "No place with this name is known."
          : inside.map((visit) => (
              <a class="wrap block" key={visit.device_id} href={onMap({ truck: visit.device_id })}>
                {visit.device_id}
              </a>
            ))}
      </p>
      {place && (
        <dl class="facts">
          <div>
            <dt>Last visit</dt>
            <dd>
              <LastVisit place={place} />
            </dd>
          </div>
          <div>
            <dt>Visits today</dt>
            <dd>{number(place.visits_today)}</dd>
          </div>
          {place.usual_dwell_seconds !== null && (
            <div>
              <dt>Usual stay</dt>
              <dd>{span(place.usual_dwell_seconds)}</dd>
            </div>
          )}
        </dl>
      )}
      {fence && (
        <p class="quiet">
          {fence.kind}, {fence.radius_m ? `radius about ${number(fence.radius_m)} m` : "size unknown"}; {from[fence.source]}
        </p>
      )}
      <p class="links">
        <a href={link("visits", { fence: id })}>Visits</a>
        <a href={link("places", { q: fence?.name ?? id })}>Show in the list of places</a>
        <Copy text={location.href} label="Copy link" />
      </p>
    </section>
  );
}

function SilentList() {
  const at = coarseMoment.value;
  const silent = shown.value.trucks
    .filter((truck) => at - truck.heardAt > SILENT_MS)
    .sort((one, other) => one.heardAt - other.heardAt);
  if (silent.length === 0) return null;
  return (
    <section class="card" aria-labelledby="silent">
      <div class="card-head">
        <h2 id="silent">Silent trucks</h2>
        <span class="count n">{number(silent.length)}</span>
      </div>
      <ul class="list-rows">
        {silent.slice(0, LISTED).map((truck) => (
          <li key={truck.device_id}>
            <a class="clip" title={truck.device_id} href={onMap({ truck: truck.device_id })}>
              {truck.device_id}
            </a>
            <span />
            <span class="n" title={utc(truck.heardAt)}>
              {ageText(moment() - truck.heardAt)}
            </span>
            {truck.silence && <span class="row-note">{truck.silence}</span>}
          </li>
        ))}
      </ul>
      {silent.length > LISTED && <p class="quiet">{number(silent.length - LISTED)} more are not listed.</p>}
    </section>
  );
}

function TruckList({ chosen }: { chosen: string }) {
  const wanted = useSignal("");
  const all = [...shown.value.trucks].sort((one, other) =>
    one.device_id.localeCompare(other.device_id, "en", { numeric: true }),
  );
  const found = all.filter((truck) => truck.device_id.toLowerCase().includes(wanted.value.toLowerCase()));
  return (
    <section class="card" aria-labelledby="trucks">
      <div class="card-head">
        <h2 id="trucks">Trucks</h2>
        <span class="count n">{number(all.length)}</span>
      </div>
      {all.length > 12 && (
        <input
          type="search"
          class="find"
          aria-label="Find a truck"
          placeholder="Find a truck"
          value={wanted.value}
          onInput={(event) => (wanted.value = event.currentTarget.value)}
        />
      )}
      {all.length === 0 ? (
        <Empty title="No truck has sent a position yet.">
          {!replay.value && (
            <>
              Send sample traffic: <code>./milkrun send</code>
            </>
          )}
        </Empty>
      ) : (
        <ul class="list-rows">
          {found.slice(0, LISTED).map((truck) => (
            <li key={truck.device_id} class={truck.device_id === chosen ? "chosen" : ""}>
              <a
                class="clip"
                title={truck.device_id}
                href={onMap({ truck: truck.device_id })}
                aria-current={truck.device_id === chosen ? "true" : undefined}
              >
                {truck.device_id}
              </a>
              <span class="clip">
                <Inside truck={truck} />
              </span>
              <span class="n" title={utc(truck.heardAt)}>
                {ageText(moment() - truck.heardAt)}
              </span>
            </li>
          ))}
        </ul>
      )}
      {all.length > 0 && found.length === 0 && <p class="quiet">No truck matches.</p>}
      {found.length > LISTED && <p class="quiet">{number(found.length - LISTED)} more are not listed: type part of a name.</p>}
    </section>
  );
}

// --- replay
