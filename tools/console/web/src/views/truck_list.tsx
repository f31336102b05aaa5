/** The list of all trucks beside the map. */

import { useSignal } from "@preact/signals";

import { ageText, utc } from "../time_format";
import { LISTED, moment, onMap, replay, shown } from "../map/shown";
import { Empty, number } from "../ui";
import { Inside } from "./truck_card";

export function TruckList({ chosen }: { chosen: string }) {
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
