/** The card of the truck that was chosen on the map: where it is and when it was last heard from. */

import { Age, clockTime } from "../time_format";
import { fenceName, trucks } from "../live";
import type { Shown } from "../map/replay";
import { moment, replay, shown } from "../map/shown";
import { choose, link } from "../route";
import { SILENT_MS } from "../truck_state";
import { Copy, number } from "../ui";

export function TruckCard({ device }: { device: string }) {
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

export function Inside({ truck }: { truck: Shown }) {
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
