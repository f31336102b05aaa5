/** A table of all places with the number of trucks there, the visits of today, the last visit and the usual stay. */

import { ask } from "../api";
import { ageText, dateOf, now, span, Time, today } from "../time_format";
import type { Place } from "../contract";
import { connections, downNames, snapshots, visitChanges } from "../live";
import { choose, link, param } from "../route";
import { Empty, Failed, Loading, number, plural, useAsked } from "../ui";

type Order = "name" | "there" | "today" | "last";
const MANY = 500;

const compared: Record<Order, (one: Place, other: Place) => number> = {
  name: (one, other) => one.name.localeCompare(other.name, "en", { numeric: true }),
  there: (one, other) => other.there - one.there,
  today: (one, other) => other.visits_today - one.visits_today,
  // Places without a visit come first, then those whose last visit is longest ago.
  last: (one, other) => (one.last_entered_at ?? "").localeCompare(other.last_entered_at ?? ""),
};
const ORDERS = Object.keys(compared) as Order[];
/** These orders are ascending by default. */
const LOWEST_FIRST: readonly Order[] = ["name", "last"];

export function PlacesView() {
  const wanted = param("q").toLowerCase();
  const order = ORDERS.find((name) => name === param("sort")) ?? "name";
  const isReversed = param("reversed") !== "";
  const onlyUnvisited = param("unvisited") !== "";
  const asked = useAsked(
    (signal) => ask<{ places: Place[] }>("/api/places", {}, { signal }),
    [connections.value],
    // `today` changes at midnight, when the number of visits today restarts at zero.
    [snapshots.value, visitChanges.value, downNames.value, today.value],
  );
  const isUnvisited = (place: Place): boolean => place.visits_today === 0 && place.there === 0;
  const matching = (asked.data?.places ?? []).filter((place) =>
    `${place.name} ${place.tag}/${place.external_id}`.toLowerCase().includes(wanted),
  );
  const found = matching
    .filter((place) => !onlyUnvisited || isUnvisited(place))
    .sort((one, other) => (isReversed ? -1 : 1) * compared[order](one, other) || compared.name(one, other));
  /** Sort by a column; sorting by it again reverses the order. */
  const sortBy = (name: Order): void =>
    choose({ sort: name === "name" ? null : name, reversed: order === name && !isReversed ? "1" : null }, true);
  const heading = (name: Order, text: string, numeric = true) => (
    <th
      scope="col"
      class={numeric ? "n" : ""}
      aria-sort={order !== name ? undefined : LOWEST_FIRST.includes(name) !== isReversed ? "ascending" : "descending"}
    >
      <button type="button" class="sort" onClick={() => sortBy(name)}>
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
        {(asked.data?.places ?? []).length > 0 && (
          <button
            type="button"
            aria-pressed={onlyUnvisited}
            onClick={() => choose({ unvisited: onlyUnvisited ? null : "1" }, true)}
          >
            Not visited today ({number(matching.filter(isUnvisited).length)})
          </button>
        )}
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
          <Empty
            title={matching.length > 0 ? "All of these places were visited today." : wanted ? "No place matches." : "No place is known yet."}
          >
            {!wanted && matching.length === 0 && "A place appears with the first geofence event from its fence, or when the console is started with --fences FILE."}
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
        {found.length > MANY && <p class="quiet">{plural(found.length - MANY, "more place")} not listed: type part of a name.</p>}
      </section>
    </div>
  );
}

export function LastVisit({ place }: { place: Place }) {
  if (!place.last_entered_at) return <span class="quiet">none known</span>;
  const left = place.last_exited_at && place.last_exited_at >= place.last_entered_at ? place.last_exited_at : null;
  return (
    <>
      <a href={link("visits", { fence: place.fence_id, date: dateOf(Date.parse(place.last_entered_at)) })}>
        <Time at={place.last_entered_at} />
      </a>
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
