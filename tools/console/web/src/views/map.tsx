/** Where everybody is: the map, who is inside which fence, one truck's trail, and a morning played again. */

import { computed, signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { ask } from "../api";
import { Age, ageText, clockTime, dayName, now, Time, utc } from "../clock";
import type { Position, Replay, ReplayRange, Trail, Visit } from "../contract";
import { fenceName, fences, snapshots, stage, there, trucks } from "../live";
import type { Chart } from "../map/canvas";
import { frame, SILENT_MS, type Shown, trailAt } from "../map/replay";
import { choose, link, param } from "../route";
import { isDark } from "../theme";
import { Empty, Failed, Loading, number, plural, useAsked } from "../ui";

/** What is played again, if anything; kept while other views are looked at. */
const replay = signal<Replay | null>(null);
const replayAt = signal(0);

/** Trucks and open visits as they are now, or as they were at the moment that is replayed. */
const shown = computed<{ trucks: Shown[]; there: Visit[] }>(() => {
  if (replay.value) return frame(replay.value, replayAt.value);
  const placed = [...trucks.value.values()].flatMap((truck) =>
    truck.position ? [{ ...truck, position: truck.position, at: Date.parse(truck.at) }] : [],
  );
  return { trucks: placed, there: there.value };
});

const LISTED = 300;

const moment = (): number => (replay.value ? replayAt.value : now.value);

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
        <TruckList chosen={truck} />
      </div>
    </div>
  );
}

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
  // Ages turn trucks grey; that may be some seconds late.
  const slowly = useComputed(() => Math.floor(moment() / 10_000));
  useEffect(() => {
    const current = chart.value;
    if (!current) return;
    const { trucks: all, there: inside } = shown.value;
    const counts = new Map<string, number>();
    for (const visit of inside) counts.set(visit.fence_id, (counts.get(visit.fence_id) ?? 0) + 1);
    const allFences = [...fences.value.values()];
    current.fences(allFences, counts, fence);
    current.trucks(all, chosenTruck.value, moment());
    current.trail(trail);
    current.fit([...all.map((each) => each.position), ...allFences.flatMap((each) => (each.centre ? [each.centre] : []))]);
  }, [chart.value, shown.value, fences.value, slowly.value, truck, fence, trail]);

  // Chosen in a list or by a link: go there.
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
    const positions = [...shown.value.trucks.map((each) => each.position)];
    for (const each of fences.value.values()) if (each.centre) positions.push(each.centre);
    chart.value?.fit(positions, true);
  };
  return (
    <div class="map-frame">
      <div ref={element} class="map" />
      {!chart.value && !problem.value && <Loading what="Loading the map …" />}
      {problem.value && (
        <div class="map-problem">
          <Empty title="This browser cannot draw the map.">
            {problem.value} The lists beside it say the same in words.
          </Empty>
        </div>
      )}
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

/** The chosen truck's way so far: what the server remembers, and what came since. */
function useTrail(device: string): Position[] {
  const asked = useAsked(
    device ? (signal) => ask<Trail>(`/api/trucks/${encodeURIComponent(device)}/trail`, {}, { signal }) : null,
    [device, snapshots.value],
  );
  const since = useRef<Position[]>([]);
  useEffect(() => {
    since.current = [];
  }, [device, asked.data]);
  const played = replay.value;
  const result = useRef<Position[]>([]);
  const here = trucks.value.get(device)?.position;
  if (played) return trailAt(played, device, replayAt.value);
  if (!device || asked.data?.device_id !== device) {
    if (result.current.length > 0) result.current = [];
    return result.current;
  }
  const last = since.current.at(-1);
  if (here && (last?.[0] !== here[0] || last[1] !== here[1])) since.current.push(here);
  const length = asked.data.points.length + since.current.length;
  if (result.current.length !== length)
    result.current = [...asked.data.points.map(([, lon, lat]): Position => [lon, lat]), ...since.current];
  return result.current;
}

function Inside({ truck }: { truck: Shown }) {
  const ids = truck.inside;
  if (ids.length === 0) return <span class="quiet">{moment() - truck.at > SILENT_MS ? "silent" : "under way"}</span>;
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
  const told = trucks.value.get(device);
  return (
    <section class="card" aria-label="The chosen truck">
      <div class="card-head">
        <h2 class="wrap">{device}</h2>
        <button type="button" onClick={() => choose({ truck: null })}>
          Close
        </button>
      </div>
      {!truck ? (
        <p class="quiet">No position of it is known{replay.value ? " at that moment" : ""}.</p>
      ) : (
        <dl class="facts">
          <div>
            <dt>Where</dt>
            <dd>
              <Inside truck={truck} />
            </dd>
          </div>
          <div>
            <dt>Last heard of</dt>
            <dd>
              {replay.value ? clockTime(truck.at) : <Age at={new Date(truck.at).toISOString()} />}
              {!replay.value && " ago"}
            </dd>
          </div>
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
              {!replay.value && told?.accuracy_m ? ` ± ${number(told.accuracy_m)} m` : ""}
            </dd>
          </div>
          {!replay.value && told && (
            <div>
              <dt>Last event</dt>
              <dd class="wrap">{told.type}</dd>
            </div>
          )}
        </dl>
      )}
      <p class="links">
        <a href={link("visits", { device, by: "truck" })}>Its visits</a>
        <a href={link("events", { device })}>Its events</a>
      </p>
    </section>
  );
}

function FenceCard({ id }: { id: string }) {
  const fence = fences.value.get(id);
  const inside = shown.value.there.filter((visit) => visit.fence_id === id);
  const from = { file: "the fences’ file", geometry: "its events", events: "where phones cross it, so roughly" };
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
          ? "Nobody is inside."
          : inside.map((visit) => (
              <a class="wrap block" key={visit.device_id} href={link("map", { truck: visit.device_id })}>
                {visit.device_id}
              </a>
            ))}
      </p>
      {fence && (
        <p class="quiet">
          {fence.kind}, {fence.radius_m ? `about ${number(fence.radius_m)} m` : "size not known"}; known from {from[fence.source]}.
        </p>
      )}
      <p class="links">
        <a href={link("visits", { fence: id })}>Its visits</a>
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
  // Who came last is looked for most.
  const visits = [...shown.value.there].sort((one, other) => other.entered_at.localeCompare(one.entered_at));
  return (
    <section class="card" aria-labelledby="there">
      <div class="card-head">
        <h2 id="there">In a fence {replay.value ? "then" : "now"}</h2>
        <span class="count n">{visits.length}</span>
      </div>
      {visits.length === 0 ? (
        <Empty title="Nobody is inside a fence." />
      ) : (
        <ul class="list-rows there-rows">
          {visits.slice(0, LISTED).map((visit) => (
            <li key={`${visit.device_id}${visit.fence_id}`}>
              <a class="clip" title={fenceName(visit.fence_id)} href={link("map", { fence: visit.fence_id })}>
                {fenceName(visit.fence_id)}
              </a>
              <a class="clip quiet-link" title={visit.device_id} href={link("map", { truck: visit.device_id })}>
                {visit.device_id}
              </a>
              <Since at={visit.entered_at} />
            </li>
          ))}
        </ul>
      )}
      {visits.length > LISTED && <p class="quiet">{number(visits.length - LISTED)} more are not listed.</p>}
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
        <span class="count n">{all.length}</span>
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
        <Empty title="No truck has told its position yet.">
          {!replay.value && (
            <>
              Send a morning: <code>python -m ops send</code>
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
                href={link("map", { truck: truck.device_id })}
                aria-current={truck.device_id === chosen ? "true" : undefined}
              >
                {truck.device_id}
              </a>
              <span class="clip">
                <Inside truck={truck} />
              </span>
              <span class="n" title={utc(truck.at)}>
                {ageText(moment() - truck.at)}
              </span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

// --- a morning played again

const TICK_MS = 500;
const SPEEDS = [1, 10, 60, 300, 900];

/** For datetime-local: the viewer's zone, to the minute. */
function local(ms: number): string {
  const shifted = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 16);
}

function ReplayBar() {
  const open = useSignal(replay.peek() !== null);
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
  };
  return (
    <section class="replay" aria-label="Replay">
      {replay.value ? <Player played={replay.value} onClose={close} /> : <Chooser onClose={close} />}
    </section>
  );
}

function Chooser({ onClose }: { onClose: () => void }) {
  const range = useAsked((signal) => ask<ReplayRange>("/api/replay/range", {}, { signal }), []);
  const from = useSignal("");
  const to = useSignal("");
  const reading = useSignal(false);
  const problem = useSignal<Error | null>(null);
  const suggested = range.data?.suggested ?? null;

  const fill = (begins: number, ends: number): void => {
    from.value = local(begins);
    to.value = local(ends);
  };
  useEffect(() => {
    if (suggested) fill(Date.parse(suggested.from), Date.parse(suggested.to));
  }, [suggested]);
  const chooseDay = (name: string): void => {
    if (name === "suggested" && suggested) return fill(Date.parse(suggested.from), Date.parse(suggested.to));
    const midnight = Date.parse(`${name}T00:00`);
    return fill(midnight + 4 * 3_600_000, midnight + 12 * 3_600_000);
  };
  const read = (): void => {
    problem.value = null;
    reading.value = true;
    const times = { from: new Date(from.value).toISOString(), to: new Date(to.value).toISOString() };
    ask<Replay>("/api/replay", times)
      .then(
        (answer) => {
          const first = Math.min(...answer.trucks.flatMap((truck) => truck.t.slice(0, 1)), Infinity);
          replayAt.value = Date.parse(answer.from) + (Number.isFinite(first) ? first : 0);
          replay.value = answer;
        },
        (error: Error) => (problem.value = error),
      )
      .finally(() => (reading.value = false));
  };
  const ready = Date.parse(from.value) < Date.parse(to.value);
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
                {dayName(Date.parse(`${day}T00:00`))}, morning
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
      {range.data && range.data.days.length === 0 && <p class="quiet">The archive is empty so far.</p>}
      {problem.value && <Failed problem={problem.value} what="The archive could not be read" again={read} />}
    </form>
  );
}

function Player({ played, onClose }: { played: Replay; onClose: () => void }) {
  const playing = useSignal(false);
  const speed = useSignal(300);
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
  const told = `${dayName(at)} ${clockTime(at)}`;
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
          {told}
        </time>
      </output>
      <input
        type="range"
        class="slider"
        aria-label="Time"
        aria-valuetext={told}
        min={from}
        max={to}
        step={10_000}
        value={at}
        onInput={(event) => (replayAt.value = Number(event.currentTarget.value))}
      />
      <button type="button" onClick={onClose}>
        Back to live
      </button>
      <p class="quiet replay-about">
        <Time at={played.from} /> – <Time at={played.to} /> · {plural(played.events, "event")}, {plural(played.trucks.length, "truck")}
        {played.truncated && " · only the first part: choose a shorter span for all"}
      </p>
    </>
  );
}
