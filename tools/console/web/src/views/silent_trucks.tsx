/** The list of silent trucks beside the map. */

import { ageText, utc } from "../time_format";
import { coarseMoment, LISTED, moment, onMap, shown } from "../map/shown";
import { SILENT_MS } from "../truck_state";
import { number } from "../ui";

export function SilentTrucks() {
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
