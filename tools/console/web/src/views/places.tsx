/** All places: who is there, how often today, and when one was last visited. */

import { useSignal } from "@preact/signals";

import { ask } from "../api";
import { ageText, now, span, Time } from "../clock";
import type { Place } from "../contract";
import { downNames, snapshots, visitChanges } from "../live";
import { choose, link, param } from "../route";
import { Empty, Failed, Loading, number, plural, useAsked } from "../ui";

type Order = "name" | "there" | "today" | "last";
const MANY = 500;

const compared: Record<Order, (one: Place, other: Place) => number> = {
  name: (one, other) => one.name.localeCompare(other.name, "en", { numeric: true }),
  there: (one, other) => other.there - one.there,
  today: (one, other) => other.visits_today - one.visits_today,
  // Those that wait longest come first; never visited is the longest.
  last: (one, other) => (one.last_entered_at ?? "").localeCompare(other.last_entered_at ?? ""),
};

export function PlacesView() {
  const wanted = param("q").toLowerCase();
  const order = useSignal<Order>("name");
  const asked = useAsked(
    (signal) => ask<{ places: Place[] }>("/api/places", {}, { signal }),
    [snapshots.value, visitChanges.value, downNames.value],
  );
  const all = asked.data?.places ?? [];
  const found = all
    .filter((place) => `${place.name} ${place.tag}/${place.external_id}`.toLowerCase().includes(wanted))
    .sort((one, other) => compared[order.value](one, other) || compared.name(one, other));
  const heading = (name: Order, text: string, numeric = true) => (
    <th scope="col" class={numeric ? "n" : ""} aria-sort={order.value === name ? (name === "name" || name === "last" ? "ascending" : "descending") : undefined}>
      <button type="button" class="sort" onClick={() => (order.value = name)}>
        {text}
      </button>
    </th>
  );
  return (
    <div class="page places">
      <div class="bar">
        <h1>Places</h1>
        <span class="quiet">{plural(found.length, "place")}</span>
        <span class="spacer" />
        <input
          type="search"
          aria-label="Find a place"
          placeholder="Find a place"
          value={param("q")}
          onInput={(event) => choose({ q: event.currentTarget.value || null }, true)}
        />
      </div>
      <section class="card" aria-label="Places and their visits">
        {asked.problem && <Failed problem={asked.problem} what="Places could not be read" again={asked.again} />}
        {!asked.data && asked.busy && <Loading what="Reading places …" />}
        {asked.data && found.length === 0 && (
          <Empty title={wanted ? "No place matches." : "No place is known yet."}>
            {!wanted && "A place becomes known when a truck’s phone enters its fence, or from a file: milkrun console --fences."}
          </Empty>
        )}
        {found.length > 0 && (
          <table class="place-table">
            <thead>
              <tr>
                {heading("name", "Place", false)}
                <th scope="col" class="wide">
                  Kind
                </th>
                {heading("there", "There now")}
                {heading("today", "Visits today")}
                {heading("last", "Last visit", false)}
                <th scope="col" class="n wide">
                  Usual stay
                </th>
              </tr>
            </thead>
            <tbody>
              {found.slice(0, MANY).map((place) => (
                <tr key={place.fence_id}>
                  <th scope="row">
                    <a class="clip" title={place.name} href={link("map", { fence: place.fence_id })}>
                      {place.name}
                    </a>
                  </th>
                  <td class="wide">{place.tag}</td>
                  <td class="n">{place.there > 0 ? number(place.there) : "–"}</td>
                  <td class="n">
                    <a href={link("visits", { fence: place.fence_id })}>{number(place.visits_today)}</a>
                  </td>
                  <td>
                    <LastVisit place={place} />
                  </td>
                  <td class="n wide">{place.usual_dwell_seconds === null ? "–" : span(place.usual_dwell_seconds)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {found.length > MANY && <p class="quiet">{plural(found.length - MANY, "more place")}: type a part of the name.</p>}
      </section>
    </div>
  );
}

function LastVisit({ place }: { place: Place }) {
  if (!place.last_entered_at) return <span class="quiet">none known</span>;
  const left = place.last_exited_at && place.last_exited_at >= place.last_entered_at ? place.last_exited_at : null;
  return (
    <>
      <Time at={place.last_entered_at} />
      {left && (
        <>
          {" – "}
          <Time at={left} />
        </>
      )}{" "}
      <span class="quiet wide-inline">
        {ageText(now.value - Date.parse(left ?? place.last_entered_at))} ago
        {place.last_device_id && (
          <>
            , <a href={link("map", { truck: place.last_device_id })}>{place.last_device_id}</a>
          </>
        )}
      </span>
    </>
  );
}
