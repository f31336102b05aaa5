/** The card of the fence that was chosen on the map: the trucks inside it and its visits. */

import { ask } from "../api";
import { span, today } from "../time_format";
import type { Place } from "../contract";
import { connections, fences, snapshots, visitChanges } from "../live";
import { onMap, present, replay, shown } from "../map/shown";
import { choose, link } from "../route";
import { Copy, number, useAsked } from "../ui";
import { LastVisit } from "./places";

export function FenceCard({ id }: { id: string }) {
  const fence = fences.value.get(id);
  const inside = present(shown.value.there).filter((visit) => visit.fence_id === id);
  const from = { file: "read from the fence file", geometry: "sent with its events", events: "estimated from where phones crossed it" };
  const asked = useAsked(
    replay.value ? null : (signal) => ask<{ places: Place[] }>("/api/places", {}, { signal }),
    [id, replay.value === null, connections.value],
    [snapshots.value, visitChanges.value, today.value],
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
