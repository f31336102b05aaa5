/** A timeline of the visits of each place or truck, and daily totals from the marts. */

import { useLayoutEffect, useMemo, useRef } from "preact/hooks";

import { ask } from "../api";
import { ageText, dateName, dateOf, dayName, endOfDay, isDate, minuteTime, now, span, startOfDay, Time, utc, zone } from "../time_format";
import type { Daily, Day, Visit, Visits } from "../contract";
import { connections, downNames, fenceName, pipeline, snapshots, stage, visitChanges } from "../live";
import { choose, link, param } from "../route";
import { Copy, decimal, Empty, Failed, Loading, number, plural, Segments, useAsked } from "../ui";

type Grouping = "fence" | "truck";
const GROUPINGS: readonly (readonly [Grouping, string])[] = [
  ["fence", "By place"],
  ["truck", "By truck"],
];
const HOUR = 3_600_000;
const DAYS = 14;

type State = "open" | "closed" | "missed" | "contradicted";

function stateOf(visit: Visit): State {
  if (visit.exited_at) return "closed";
  if (visit.exit_inferred_at) return "contradicted";
  return visit.open ? "open" : "missed";
}

/**
 * Return the end of a bar: the exit; if it is missing, the time at which the truck was seen elsewhere; for an open visit,
 * now; otherwise the truck's last event at the place.
 */
function endOf(visit: Visit, nowMs: number): number {
  if (visit.exited_at) return Date.parse(visit.exited_at);
  if (visit.exit_inferred_at) return Date.parse(visit.exit_inferred_at);
  if (visit.open) return nowMs;
  return Date.parse(visit.last_seen_at ?? visit.entered_at);
}

function wordsOf(visit: Visit): string[] {
  const words = {
    open: ["there now"],
    closed: [`${span(visit.dwell_seconds ?? 0)}`],
    missed: ["exit missing"],
    contradicted: [
      `exit missing, seen at ${fenceName(visit.seen_at_fence_id ?? "another place")} ${minuteTime(Date.parse(visit.exit_inferred_at ?? visit.entered_at))}`,
    ],
  }[stateOf(visit)];
  if (visit.restated) words.push("corrected");
  if ((visit.crossings ?? 1) > 1) words.push(`${visit.crossings} crossings merged`);
  return words;
}

export function VisitsView() {
  const today = dateOf(now.value);
  const date = isDate(param("date")) && param("date") < today ? param("date") : today;
  const grouping: Grouping = param("by") === "truck" ? "truck" : "fence";
  const device = param("device");
  const fence = param("fence");
  const prefix = param("q");
  const from = startOfDay(date);
  const ends = endOfDay(date);
  const to = date === today ? now.value : ends;
  const query = {
    device_id: device,
    fence_id: fence,
    from: new Date(from).toISOString(),
    to: new Date(ends - 1).toISOString(),
  };
  const what = JSON.stringify([date, device, fence]);
  const asked = useAsked(
    // Wait for the fleet's time zone, because it decides when the day begins.
    stage.value ? async (signal) => ({ what, ...(await ask<Visits>("/api/visits", query, { signal })) }) : null,
    [date, stage.value !== null, zone.value, device, fence, connections.value],
    [snapshots.value, downNames.value, date === today ? visitChanges.value : 0],
  );
  const begins = (text: string): boolean => text.toLowerCase().startsWith(prefix.toLowerCase());
  // While another day, truck or place is being read, do not show the previous visits as its own.
  const found = asked.data?.what === what ? asked.data : null;
  const visits = (found?.visits ?? []).filter(
    (visit) => !prefix || [visit.device_id, visit.geofence_external_id, fenceName(visit.fence_id)].some(begins),
  );
  // Not set through `value`, because each tick of the clock would overwrite a half-typed date such as 0002-11-28.
  const picker = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    if (picker.current) picker.current.value = date;
  }, [date]);
  const step = (days: number): void => {
    const other = dateOf(startOfDay(date) + (days * 24 + 12) * HOUR);
    choose({ date: other === today ? null : other, visit: null });
  };
  const download = new URLSearchParams(
    Object.entries({ ...query, prefix }).filter(([, value]) => value !== ""),
  );
  return (
    <div class="page visits">
      <div class="bar">
        <h1>Visits</h1>
        <span class="day-picker">
          <button type="button" aria-label="The day before" onClick={() => step(-1)}>
            ‹
          </button>
          <input
            ref={picker}
            type="date"
            aria-label="Day"
            required
            min="2000-01-01"
            max={today}
            onChange={(event) => {
              const picked = event.currentTarget.value;
              if (isDate(picked) && picked <= today) choose({ date: picked === today ? null : picked, visit: null });
            }}
          />
          <button type="button" aria-label="The day after" disabled={date >= today} onClick={() => step(1)}>
            ›
          </button>
        </span>
        <input
          type="search"
          aria-label="Trucks and places whose names begin with"
          placeholder="Begins with …"
          value={prefix}
          onInput={(event) => choose({ q: event.currentTarget.value || null }, true)}
        />
        <span class="spacer" />
        <Segments label="Rows" options={GROUPINGS} value={grouping} onChange={(by) => choose({ by: by === "fence" ? null : by })} />
        <a class="button" href={`/api/visits.csv?${download}`} download>
          CSV
        </a>
        <a class="button" href={`/api/report?day=${date}&format=html`} download>
          Report
        </a>
        <a class="button" href={`/api/report?day=${date}&format=csv`} download>
          Report (CSV)
        </a>
      </div>
      {(device || fence) && (
        <p class="narrowed">
          Only <strong class="wrap">{device || fenceName(fence)}</strong>{" "}
          <button type="button" onClick={() => choose({ device: null, fence: null })}>
            Show all
          </button>
        </p>
      )}
      <section class="card timeline-card" aria-label="Timeline">
        {asked.problem && <Failed problem={asked.problem} what="Visits could not be read" again={asked.again} />}
        {found && found.missing.length > 0 && (
          <p class="banner" role="alert">
            {found.missing.length > 1
              ? "The warehouse and the visits table"
              : found.source.includes("marts")
                ? "The visits table"
                : "The warehouse"}{" "}
            cannot be read: visits may be missing
            or less detailed.
          </p>
        )}
        {found ? (
          <Timeline visits={visits} grouping={grouping} date={date} from={from} to={to} />
        ) : (
          !asked.problem && <Loading what="Reading visits …" />
        )}
        {found && found.more > 0 && (
          <p class="quiet">{plural(found.more, "more visit")} not shown: choose a truck or a place.</p>
        )}
      </section>
      <DailyTotals />
    </div>
  );
}

interface Row {
  id: string;
  title: string;
  visits: Visit[];
}

/** Put overlapping visits of a row into separate lanes. */
function lanesOf(visits: Visit[], to: number): { lanes: number; laneOf: Map<Visit, number> } {
  const ends: number[] = [];
  const laneOf = new Map<Visit, number>();
  for (const visit of [...visits].sort((one, other) => one.entered_at.localeCompare(other.entered_at))) {
    const begins = Date.parse(visit.entered_at);
    let lane = ends.findIndex((end) => end <= begins);
    if (lane < 0) lane = ends.length;
    ends[lane] = Math.max(endOf(visit, to), begins + 1);
    laneOf.set(visit, lane);
  }
  return { lanes: Math.max(1, ends.length), laneOf };
}

/** Bars narrower than this share of the width have no room for a name. */
const NAME_FROM_PERCENT = 5;

function rowsOf(visits: Visit[], grouping: Grouping): Row[] {
  const rows = new Map<string, Row>();
  for (const visit of visits) {
    const id = grouping === "fence" ? visit.fence_id : visit.device_id;
    const row = rows.get(id) ?? { id, title: grouping === "fence" ? fenceName(id) : id, visits: [] };
    row.visits.push(visit);
    rows.set(id, row);
  }
  return [...rows.values()].sort((one, other) => one.title.localeCompare(other.title, "en", { numeric: true }));
}

/** Return round hours with room for a label between them. */
function ticksOf(from: number, to: number): number[] {
  const hours = (to - from) / HOUR;
  const step = hours <= 8 ? 1 : hours <= 14 ? 2 : hours <= 26 ? 4 : 12;
  const ticks: number[] = [];
  for (let at = Math.floor(from / HOUR) * HOUR; at < to; at += HOUR)
    if (at > from && Number(minuteTime(at).slice(0, 2)) % step === 0) ticks.push(at);
  return ticks;
}

/** Return the key that identifies a visit in every store. */
const keyOf = (visit: Visit): string => `${visit.device_id} ${visit.fence_id} ${visit.entered_event_id}`;

interface TimelineProps {
  visits: Visit[];
  grouping: Grouping;
  date: string;
  from: number;
  to: number;
}

const LEGEND: readonly (readonly [string, string])[] = [
  ["closed", "left"],
  ["open", "there now"],
  ["missed", "exit missing"],
  ["contradicted", "exit missing, seen elsewhere"],
  ["closed restated", "corrected"],
  ["closed merged", "crossings merged"],
];
/** Labels further right, in percent of the width, would be cut at the edge. */
const LAST_LABEL_PERCENT = 92;

function Timeline({ visits, grouping, date, from: earliest, to }: TimelineProps) {
  const chosen = param("visit");
  // The timeline begins shortly before the first visit, not at midnight.
  const firstEntered = useMemo(() => Math.min(...visits.map((visit) => Date.parse(visit.entered_at))), [visits]);
  const from = Math.max(earliest, Math.min(firstEntered - 10 * 60_000, to - HOUR));
  const rows = useMemo(() => rowsOf(visits, grouping), [visits, grouping]);
  if (visits.length === 0)
    return <Empty title="No visit on this day.">A visit begins when a truck’s phone enters the fence of a place.</Empty>;
  const left = (ms: number): number => Math.min(100, Math.max(0, ((ms - from) / (to - from)) * 100));
  const picked = visits.find((visit) => keyOf(visit) === chosen);
  const first = rows[0]?.visits[0];
  const focusable = picked ?? first;
  const ticks = ticksOf(from, to);
  return (
    <>
      <p class="legend" aria-hidden="true">
        {LEGEND.map(([kind, text]) => (
          <span key={kind}>
            <span class={`bar-sample ${kind}`} /> {text}
          </span>
        ))}
      </p>
      <div class="timeline" onKeyDown={moveBetweenBars}>
        <div class="timeline-axis" aria-hidden="true">
          <div class="lane">
            {ticks.filter((at) => left(at) <= LAST_LABEL_PERCENT).map((at) => (
              <span class="tick" key={at} style={{ left: `${left(at)}%` }}>
                {minuteTime(at)}
                <small>{dayName(at)}</small>
              </span>
            ))}
          </div>
        </div>
        <div class="rows" role="list" aria-label={grouping === "fence" ? "Places" : "Trucks"}>
          {rows.map((row) => {
            const { lanes, laneOf } = lanesOf(row.visits, to);
            return (
              <div class="row" role="listitem" key={row.id} style={{ height: `${lanes * 1.375 + 0.25}rem` }}>
                <a class="row-name clip" title={row.title} href={link("visits", grouping === "fence" ? { fence: row.id } : { device: row.id, by: "truck" })}>
                  {row.title}
                </a>
                <div class="lane">
                  {ticks.map((at) => (
                    <span class="line" key={at} style={{ left: `${left(at)}%` }} />
                  ))}
                  {row.visits.map((visit) => {
                    const start = left(Date.parse(visit.entered_at));
                    const width = Math.max(0, left(endOf(visit, to)) - start);
                    const merged = (visit.crossings ?? 1) > 1 ? " merged" : "";
                    const who = grouping === "fence" ? visit.device_id : fenceName(visit.fence_id);
                    return (
                      <button
                        type="button"
                        key={keyOf(visit)}
                        class={`visit ${stateOf(visit)}${visit.restated ? " restated" : ""}${merged}`}
                        style={{ left: `${start}%`, width: `${width}%`, top: `${(laneOf.get(visit) ?? 0) * 1.375 + 0.1875}rem` }}
                        tabIndex={visit === focusable ? 0 : -1}
                        aria-pressed={visit === picked}
                        aria-label={`${who}, entered ${minuteTime(Date.parse(visit.entered_at))}, ${wordsOf(visit).join(", ")}`}
                        title={`${who}\n${minuteTime(Date.parse(visit.entered_at))} (${utc(Date.parse(visit.entered_at))})\n${wordsOf(visit).join(", ")}`}
                        // The link has the date, also of today, because it may be opened on another day.
                        onClick={() => choose({ visit: visit === picked ? null : keyOf(visit), date }, true)}
                      >
                        {width >= NAME_FROM_PERCENT && (
                          <span class="visit-name" aria-hidden="true">
                            {who}
                          </span>
                        )}
                      </button>
                    );
                  })}
                </div>
              </div>
            );
          })}
        </div>
      </div>
      <div class="picked" aria-live="polite">
        {picked ? (
          <VisitFacts visit={picked} />
        ) : chosen ? (
          <p>The linked visit is not shown: a filter hides it, it belongs to another day, or later events have replaced it.</p>
        ) : (
          <p class="quiet">
            {plural(visits.length, "visit")}, {visits.filter((v) => v.open && !v.contradicted_by_event_id).length} there now. Select a bar for
            details; the arrow keys move between bars.
          </p>
        )}
      </div>
    </>
  );
}

/** All bars together are one Tab stop; the arrow keys move between them. */
function moveBetweenBars(event: KeyboardEvent): void {
  const bar = (event.target as Element).closest<HTMLElement>(".visit");
  if (!bar) return;
  const row = bar.closest(".row");
  const others = (within: Element | null | undefined): HTMLElement[] => [...(within?.querySelectorAll<HTMLElement>(".visit") ?? [])];
  const here = others(row);
  const at = here.indexOf(bar);
  const goals: Record<string, () => HTMLElement | undefined> = {
    ArrowRight: () => here[at + 1],
    ArrowLeft: () => here[at - 1],
    ArrowDown: () => others(row?.nextElementSibling)[0],
    ArrowUp: () => others(row?.previousElementSibling)[0],
  };
  const goal = goals[event.key]?.();
  if (!goal) return;
  event.preventDefault();
  goal.focus();
}

function VisitFacts({ visit }: { visit: Visit }) {
  return (
    <dl class="facts facts-row">
      <div>
        <dt>Truck</dt>
        <dd class="wrap">
          <a href={link("visits", { device: visit.device_id, by: "truck" })}>{visit.device_id}</a>
        </dd>
      </div>
      <div>
        <dt>Place</dt>
        <dd class="wrap">
          <a href={link("visits", { fence: visit.fence_id })}>{fenceName(visit.fence_id)}</a>
        </dd>
      </div>
      <div>
        <dt>Entered</dt>
        <dd>
          <Time at={visit.entered_at} />
        </dd>
      </div>
      <div>
        <dt>Left</dt>
        <dd>
          <Time at={visit.exited_at} />
        </dd>
      </div>
      <div>
        <dt>Stay</dt>
        <dd>
          {visit.dwell_seconds !== null
            ? span(visit.dwell_seconds)
            : visit.exit_inferred_at
              ? `${span((Date.parse(visit.exit_inferred_at) - Date.parse(visit.entered_at)) / 1000)}, inferred`
              : visit.open
              ? `${ageText(now.value - Date.parse(visit.entered_at))} so far`
              : "–"}
        </dd>
      </div>
      <div>
        <dt>State</dt>
        <dd>{wordsOf(visit).filter((word) => !/^\d+(\.\d)? (s|min)$/.test(word)).join(", ") || "left"}</dd>
      </div>
      <div>
        <dt>Events</dt>
        <dd>
          <a href={link("events", { event: visit.entered_event_id, of: visit.device_id })}>enter</a>
          {visit.exited_event_id && (
            <>
              {" · "}
              <a href={link("events", { event: visit.exited_event_id, of: visit.device_id })}>exit</a>
            </>
          )}
        </dd>
      </div>
      <div>
        <dt>Share</dt>
        <dd>
          <Copy text={location.href} label="Copy link" />
        </dd>
      </div>
    </dl>
  );
}

const MEASURES: readonly { name: keyof Day; title: string; unit: string; show: (n: number | null) => string }[] = [
  { name: "collections", title: "Collections", unit: "", show: number },
  { name: "litres", title: "Milk", unit: " l", show: number },
  { name: "visits", title: "Visits", unit: "", show: number },
  { name: "kilometres", title: "Driven", unit: " km", show: decimal },
  { name: "dwell_seconds", title: "Time at places", unit: " h", show: (n) => decimal(n === null ? null : n / 3600) },
  { name: "events", title: "Events", unit: "", show: number },
];

function DailyTotals() {
  const asked = useAsked((signal) => ask<Daily>("/api/daily", { days: DAYS }, { signal }), [connections.value], [
    snapshots.value,
    downNames.value,
    // Read again when dbt has built the marts.
    pipeline.value?.stages.find((each) => each.name === "marts")?.last_at,
  ]);
  const days = asked.data ? fortnight(asked.data) : [];
  const last = days.map((day) => day.date).sort().at(-1);
  const utcToday = new Date(now.value).toISOString().slice(0, 10);
  return (
    <section class="card daily" aria-labelledby="daily">
      <div class="card-head">
        <h2 id="daily">Daily totals</h2>
        <span class="quiet">
          {last && `figures for ${last === utcToday ? "today" : dateName(last)}; `}days end at midnight UTC
          {asked.data?.cut && `; too many rows before ${dateName(asked.data.from)}`}
        </span>
      </div>
      {asked.problem && <Failed problem={asked.problem} what="The daily totals could not be read" again={asked.again} />}
      {!asked.data && asked.busy && <Loading what="Reading the daily totals …" />}
      {asked.data && !asked.data.built && (
        <Empty title="There are no daily totals yet.">
          <code>milkrun warehouse dbt build</code> computes them.
        </Empty>
      )}
      {asked.data?.built && !asked.data.cut && days.length === 0 && (
        <Empty title={`There are no events in the last ${DAYS} days.`} />
      )}
      {days.length > 0 && (
        <div class="plots">
          {MEASURES.map((measure) => (
            <Plot key={measure.name} days={days} measure={measure} />
          ))}
        </div>
      )}
    </section>
  );
}

/** Return the last days from `from` up to the latest known one, with zeros for days without events. */
function fortnight({ days, from }: Daily): Day[] {
  if (days.length === 0) return [];
  const known = new Map(days.map((day) => [day.date, day]));
  const last = Math.max(...days.map((day) => Date.parse(day.date)));
  const nothing = { events: 0, visits: 0, collections: 0, litres: 0, kilometres: 0, dwell_seconds: 0, trucks: 0, farms: 0 };
  return Array.from({ length: DAYS }, (_, i) => {
    const date = new Date(last - (DAYS - 1 - i) * 24 * HOUR).toISOString().slice(0, 10);
    return known.get(date) ?? { date, ...nothing };
  }).filter((day) => day.date >= from);
}

function Plot({ days: ordered, measure }: { days: Day[]; measure: (typeof MEASURES)[number] }) {
  const valueOf = (day: Day): number => Number(day[measure.name] ?? 0);
  const highest = Math.max(...ordered.map(valueOf), 1e-9);
  const latest = ordered.at(-1);
  const shown = (day: Day): string => `${measure.show(day[measure.name] === null ? null : valueOf(day))}${measure.unit}`;
  return (
    <figure class="plot">
      <figcaption>
        <span>{measure.title}</span>
        <strong class="n" title={latest?.date}>
          {latest ? shown(latest) : "–"}
        </strong>
      </figcaption>
      <ol class="plot-bars">
        {ordered.map((day) => (
          <li key={day.date} title={`${day.date}: ${shown(day)}`}>
            <span class="plot-bar" style={{ height: `${(valueOf(day) / highest) * 100}%` }} />
            <span class="unseen">
              {day.date}: {shown(day)}
            </span>
          </li>
        ))}
      </ol>
      <p class="plot-span quiet">
        <span>{dateName(ordered[0]?.date ?? "")}</span>
        <span>{dateName(latest?.date ?? "")}</span>
      </p>
    </figure>
  );
}
