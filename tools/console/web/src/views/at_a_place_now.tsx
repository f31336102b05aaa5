/** The list "At a place now": the trucks at a place, since when, which stays are overdue, and which exits are missing. */

import { useSignal } from "@preact/signals";

import { ageText, minuteTime, span, utc } from "../time_format";
import type { Visit } from "../contract";
import { fenceName } from "../live";
import { coarseMoment, LISTED, moment, onMap, present, replay, shown } from "../map/shown";
import { isContradicted, isOverdue } from "../truck_state";
import { Empty, number } from "../ui";

function Since({ at }: { at: string }) {
  const ms = Date.parse(at);
  return (
    <time class="n" dateTime={at} title={utc(ms)}>
      {ageText(moment() - ms)}
    </time>
  );
}

export function AtAPlaceNow() {
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
            <VisitRow key={`${visit.device_id}${visit.fence_id}`} visit={visit} />
          ))}
        </ul>
      )}
      {wanted.length > LISTED && <p class="quiet">{number(wanted.length - LISTED)} more are not listed.</p>}
    </section>
  );
}

function VisitRow({ visit }: { visit: Visit }) {
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
