/** The map, who is at which place, silent trucks, a truck's trail, and replays. */

import { computed, signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { ask } from "../api";
import { Age, ageText, clockTime, dateOf, dayName, minuteTime, momentOf, now, span, startOfDay, Time, utc, wallOf } from "../clock";
import type { Fence, Place, Position, Replay, ReplayRange, Trail, Visit } from "../contract";
import { fenceName, fences, snapshots, stage, there, trucks, visitChanges } from "../live";
import type { Chart } from "../map/canvas";
import { frame, type Passed, type Shown, trailAt } from "../map/replay";
import { choose, link, type Params, param } from "../route";
import { isDark } from "../theme";
import { isContradicted, isOverdue, SILENT_MS, STATES, stateOf, type TruckState } from "../trucks";
import { Copy, Empty, Failed, Loading, number, plural, useAsked } from "../ui";
import { LastVisit } from "./places";

/** The current replay, if any; kept while other views are open. */
const replay = signal<Replay | null>(null);
const replayAt = signal(0);

/** Trucks and open visits now, or at the time of the replay. */
const shown = computed<{ trucks: Shown[]; there: Visit[] }>(() => {
  if (replay.value) return frame(replay.value, replayAt.value);
  const placed = [...trucks.value.values()].flatMap((truck) =>
    truck.position
      ? [{ ...truck, position: truck.position, at: Date.parse(truck.at), heardAt: Date.parse(truck.heard_at) }]
      : [],
  );
  return { trucks: placed, there: there.value };
});

const LISTED = 300;

const moment = (): number => (replay.value ? replayAt.value : now.value);

/** The time in steps of ten seconds, because every change is drawn, and overdue and silent change slowly. */
const coarseMoment = computed(() => Math.floor(moment() / 10_000) * 10_000);

const overdue = computed(
  () => new Set(shown.value.there.filter((visit) => isOverdue(visit, coarseMoment.value)).map((visit) => visit.device_id)),
);

const stated = computed(() =>
  shown.value.trucks.map((truck) => ({ ...truck, state: stateOf(truck, overdue.value, coarseMoment.value) })),
);

/** A link to a truck or place on this map. The replay adds its own time to the address. */
const onMap = (params: Params): string => link("map", { ...params, tiles: param("tiles") });

const present = (visits: Visit[]): Visit[] => visits.filter((visit) => !isContradicted(visit));

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
        <ThereList />
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

function Since({ at }: { at: string }) {
  const ms = Date.parse(at);
  return (
    <time class="n" dateTime={at} title={utc(ms)}>
      {ageText(moment() - ms)}
    </time>
  );
}

function ThereList() {
  const onlyLate = useSignal(false);
  const visits = [...shown.value.there].sort((one, other) => one.entered_at.localeCompare(other.entered_at));
  const here = present(visits);
  const gone = visits.filter(isContradicted);
  const late = here.filter((visit) => isOverdue(visit, coarseMoment.value));
  const isOnlyLate = onlyLate.value && late.length > 0;
  const wanted = isOnlyLate ? late : [...here, ...gone];
  const rows = wanted.slice(0, LISTED);
  return (
    <section class="card" aria-labelledby="there">
      <div class="card-head">
        <h2 id="there">At a place {replay.value ? "then" : "now"}</h2>
        <span>
          {late.length > 0 && (
            <button type="button" class="late-count n" aria-pressed={isOnlyLate} onClick={() => (onlyLate.value = !isOnlyLate)}>
              {number(late.length)} overdue
            </button>
          )}{" "}
          <span class="count n">{number(here.length)}</span>
        </span>
      </div>
      {visits.length === 0 ? (
        <Empty title="No truck is at a place." />
      ) : (
        <ul class="list-rows there-rows">
          {rows.map((visit) => (
            <ThereRow key={`${visit.device_id}${visit.fence_id}`} visit={visit} />
          ))}
        </ul>
      )}
      {wanted.length > LISTED && <p class="quiet">{number(wanted.length - LISTED)} more are not listed.</p>}
    </section>
  );
}

function ThereRow({ visit }: { visit: Visit }) {
  const contradicted = isContradicted(visit);
  const late = isOverdue(visit, coarseMoment.value);
  return (
    <li class={contradicted ? "contradicted" : late ? "overdue" : ""}>
      <a class="clip" title={fenceName(visit.fence_id)} href={onMap({ fence: visit.fence_id })}>
        {fenceName(visit.fence_id)}
      </a>
      <a class="clip quiet-link" title={visit.device_id} href={onMap({ truck: visit.device_id })}>
        {visit.device_id}
      </a>
      <Since at={visit.entered_at} />
      {contradicted && (
        <span class="row-note">
          exit missing, seen at {fenceName(visit.seen_at_fence_id ?? "")}{" "}
          {visit.exit_inferred_at && (
            <time dateTime={visit.exit_inferred_at} title={utc(Date.parse(visit.exit_inferred_at))}>
              {minuteTime(Date.parse(visit.exit_inferred_at))}
            </time>
          )}
        </span>
      )}
      {late && <span class="row-note">overdue: usually {span(visit.usual_dwell_seconds ?? 0)} here</span>}
    </li>
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

const TICK_MS = 500;
const SPEEDS = [1, 10, 60, 300, 900];

function ReplayBar() {
  const open = useSignal(replay.peek() !== null || param("from") !== "");
  const problem = useSignal<Error | null>(null);
  // A link to a time of a replay shows the same after a restart of the console.
  useEffect(() => {
    if (!param("from") || !param("to") || replay.peek()) return;
    load(param("from"), param("to"), Date.parse(param("at"))).catch((error: Error) => (problem.value = error));
  }, []);
  if (!open.value)
    return (
      <div class="replay">
        <button type="button" onClick={() => (open.value = true)}>
          Replay a morning …
        </button>
        <span class="quiet">The map is live.</span>
      </div>
    );
  const close = (): void => {
    replay.value = null;
    open.value = false;
    choose({ from: null, to: null, at: null }, true);
  };
  return (
    <section class="replay" aria-label="Replay">
      {replay.value ? <Player played={replay.value} onClose={close} /> : <Chooser onClose={close} />}
      {problem.value && <Failed problem={problem.value} what="The linked replay could not be read" />}
    </section>
  );
}

/** Read a time span of the archive and show it at that time, by default where the first truck appears. */
async function load(from: string, to: string, at: number | null): Promise<void> {
  const answer = await ask<Replay>("/api/replay", { from, to });
  const first = Math.min(...answer.trucks.flatMap((truck) => truck.t.slice(0, 1)), Infinity);
  const begins = Date.parse(answer.from) + (Number.isFinite(first) ? first : 0);
  replayAt.value = at === null || Number.isNaN(at) ? begins : Math.min(Math.max(at, Date.parse(answer.from)), Date.parse(answer.to));
  replay.value = answer;
}

function Chooser({ onClose }: { onClose: () => void }) {
  const range = useAsked((signal) => ask<ReplayRange>("/api/replay/range", {}, { signal }), []);
  const from = useSignal("");
  const to = useSignal("");
  const reading = useSignal(false);
  const problem = useSignal<Error | null>(null);
  const suggested = range.data?.suggested ?? null;

  const fill = (begins: number, ends: number): void => {
    from.value = wallOf(begins);
    to.value = wallOf(ends);
  };
  useEffect(() => {
    if (suggested) fill(Date.parse(suggested.from), Date.parse(suggested.to));
  }, [suggested]);
  const chooseDay = (name: string): void => {
    if (name === "suggested" && suggested) return fill(Date.parse(suggested.from), Date.parse(suggested.to));
    const midnight = startOfDay(name);
    return fill(midnight + 4 * 3_600_000, midnight + 12 * 3_600_000);
  };
  const read = (): void => {
    problem.value = null;
    reading.value = true;
    load(new Date(momentOf(from.value)).toISOString(), new Date(momentOf(to.value)).toISOString(), null)
      .catch((error: Error) => (problem.value = error))
      .finally(() => (reading.value = false));
  };
  const ready = momentOf(from.value) < momentOf(to.value);
  return (
    <form
      class="replay-form"
      onSubmit={(event) => {
        event.preventDefault();
        read();
      }}
    >
      {range.data && (
        <label>
          <span>Day</span>
          <select onChange={(event) => chooseDay(event.currentTarget.value)}>
            {suggested && <option value="suggested">latest</option>}
            {[...range.data.days].reverse().map((day) => (
              <option key={day} value={day}>
                {dayName(startOfDay(day))}, morning
              </option>
            ))}
          </select>
        </label>
      )}
      <label>
        <span>From</span>
        <input type="datetime-local" required value={from.value} onInput={(event) => (from.value = event.currentTarget.value)} />
      </label>
      <label>
        <span>To</span>
        <input type="datetime-local" required value={to.value} onInput={(event) => (to.value = event.currentTarget.value)} />
      </label>
      <button type="submit" class="primary" disabled={!ready || reading.value}>
        {reading.value ? "Reading the archive …" : "Load"}
      </button>
      <button type="button" onClick={onClose}>
        Back to live
      </button>
      {range.problem && <Failed problem={range.problem} what="The archive cannot be listed" again={range.again} />}
      {range.data && range.data.days.length === 0 && <p class="quiet">The archive is still empty.</p>}
      {problem.value && <Failed problem={problem.value} what="The archive could not be read" again={read} />}
    </form>
  );
}

function Player({ played, onClose }: { played: Replay; onClose: () => void }) {
  const playing = useSignal(false);
  const speed = useSignal(300);
  const isOutside = useSignal(false);
  const from = Date.parse(played.from);
  const to = Date.parse(played.to);
  useEffect(() => {
    if (!playing.value) return undefined;
    const timer = setInterval(() => {
      replayAt.value = Math.min(to, replayAt.value + TICK_MS * speed.value);
      if (replayAt.value >= to) playing.value = false;
    }, TICK_MS);
    return () => clearInterval(timer);
  }, [playing.value, speed.value, to]);
  const at = replayAt.value;
  // Update the address at a rate that the browser's history accepts.
  useEffect(() => {
    const timer = setTimeout(() => choose({ from: played.from, to: played.to, at: new Date(at).toISOString() }, true), 400);
    return () => clearTimeout(timer);
  }, [Math.floor(at / 10_000), playing.value, played, param("from")]); // links in the lists omit the time
  const shownTime = `${dayName(at)} ${clockTime(at)}`;
  /** Go to the first time in the replay with this time of day. */
  const goTo = (time: string): void => {
    const wanted = [dateOf(from), dateOf(to)].map((date) => momentOf(`${date}T${time}`)).find((each) => each >= from && each <= to);
    isOutside.value = time !== "" && wanted === undefined;
    if (wanted !== undefined) replayAt.value = wanted;
  };
  return (
    <>
      <button
        type="button"
        class="primary play"
        onClick={() => {
          if (at >= to) replayAt.value = from;
          playing.value = !playing.value;
        }}
      >
        {playing.value ? "Pause" : "Play"}
      </button>
      <label>
        <span class="unseen">Speed</span>
        <select value={speed.value} onChange={(event) => (speed.value = Number(event.currentTarget.value))}>
          {SPEEDS.map((factor) => (
            <option key={factor} value={factor}>
              {factor} ×
            </option>
          ))}
        </select>
      </label>
      <output class="replay-time n">
        <time dateTime={new Date(at).toISOString()} title={utc(at)}>
          {shownTime}
        </time>
      </output>
      <input
        type="range"
        class="slider"
        aria-label="Time"
        aria-valuetext={shownTime}
        min={from}
        max={to}
        step={10_000}
        value={at}
        onInput={(event) => (replayAt.value = Number(event.currentTarget.value))}
      />
      <label class="go-to">
        <span>Go to</span>
        <input type="time" aria-label="Go to the time" onChange={(event) => goTo(event.currentTarget.value)} />
      </label>
      <button type="button" onClick={onClose}>
        Back to live
      </button>
      <p class="quiet replay-about">
        {isOutside.value && <strong role="status">This time is outside the replay. </strong>}
        <Time at={played.from} /> – <Time at={played.to} /> · {plural(played.events, "event")}, {plural(played.trucks.length, "truck")}
        {played.truncated && " · only the first part is shown: choose a shorter time span"}
      </p>
    </>
  );
}
