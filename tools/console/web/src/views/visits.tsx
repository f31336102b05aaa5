/** Who was where: a timeline for each farm or each truck, and the days' totals from the marts. */

import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";

import { ask } from "../api";
import { ageText, dayName, minuteTime, now, span, Time } from "../clock";
import type { Daily, Day, Visit, Visits } from "../contract";
import { downNames, fenceName, snapshots, visitChanges } from "../live";
import { choose, link, param } from "../route";
import { decimal, Empty, Failed, Loading, number, plural, Segments, useAsked } from "../ui";

type Grouping = "fence" | "truck";
const GROUPINGS: readonly (readonly [Grouping, string])[] = [
  ["fence", "By fence"],
  ["truck", "By truck"],
];
const SPANS: readonly (readonly [string, string])[] = [
  ["6", "6 h"],
  ["12", "12 h"],
  ["24", "24 h"],
  ["72", "3 days"],
];
const HOUR = 3_600_000;
const DAYS = 14;

type State = "open" | "closed" | "missed";

const stateOf = (visit: Visit): State => (visit.exited_at ? "closed" : visit.open ? "open" : "missed");

/** Where a bar ends: an open one now; one whose exit never came where it was last seen. */
function endOf(visit: Visit, nowMs: number): number {
  if (visit.exited_at) return Date.parse(visit.exited_at);
  if (visit.open) return nowMs;
  return Date.parse(visit.last_seen_at ?? visit.entered_at);
}

function wordsOf(visit: Visit): string[] {
  const words = {
    open: ["there now"],
    closed: [`${span(visit.dwell_seconds ?? 0)}`],
    missed: ["its exit never came"],
  }[stateOf(visit)];
  if (visit.restated) words.push("restated");
  if ((visit.crossings ?? 1) > 1) words.push(`${visit.crossings} crossings merged`);
  return words;
}

export function VisitsView() {
  const hours = SPANS.some(([name]) => name === param("hours")) ? param("hours") : "24";
  const grouping: Grouping = param("by") === "truck" ? "truck" : "fence";
  const device = param("device");
  const fence = param("fence");
  const asked = useAsked(
    (signal) => {
      const from = new Date(now.peek() - Number(hours) * HOUR).toISOString();
      return ask<Visits>("/api/visits", { device_id: device, fence_id: fence, from }, { signal });
    },
    [hours, device, fence, snapshots.value, downNames.value, visitChanges.value],
  );
  return (
    <div class="page visits">
      <div class="bar">
        <h1>Visits</h1>
        <span class="spacer" />
        <Segments label="Rows" options={GROUPINGS} value={grouping} onChange={(by) => choose({ by: by === "fence" ? null : by })} />
        <Segments label="Span" options={SPANS} value={hours} onChange={(value) => choose({ hours: value === "24" ? null : value })} />
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
        {asked.data?.missing.map((source) => (
          <p class="banner" role="alert" key={source}>
            Without {source}. Visits may be missing or less detailed.
          </p>
        ))}
        {asked.data ? (
          <Timeline visits={asked.data.visits} grouping={grouping} from={now.value - Number(hours) * HOUR} to={now.value} />
        ) : (
          !asked.problem && <Loading what="Reading visits …" />
        )}
        {asked.data && asked.data.more > 0 && (
          <p class="quiet">{plural(asked.data.more, "more visit")} left out: choose a shorter span.</p>
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

/** Round hours (or quarters of a day) between which there is room for a label. */
function ticksOf(from: number, to: number): number[] {
  const hours = (to - from) / HOUR;
  const step = hours <= 8 ? 1 : hours <= 14 ? 2 : hours <= 26 ? 4 : 12;
  const first = new Date(from);
  first.setMinutes(0, 0, 0);
  const ticks: number[] = [];
  for (let at = first.getTime(); at < to; at += HOUR)
    if (at > from && new Date(at).getHours() % step === 0) ticks.push(at);
  return ticks;
}

const keyOf = (visit: Visit): string => `${visit.device_id}\n${visit.fence_id}\n${visit.entered_event_id}`;

interface TimelineProps {
  visits: Visit[];
  grouping: Grouping;
  from: number;
  to: number;
}

function Timeline({ visits, grouping, from: earliest, to }: TimelineProps) {
  const chosen = useSignal("");
  // Hours before the first visit would only squeeze the rest.
  const firstEntered = useMemo(() => Math.min(...visits.map((visit) => Date.parse(visit.entered_at))), [visits]);
  const from = Math.max(earliest, Math.min(firstEntered - 10 * 60_000, to - HOUR));
  const rows = useMemo(() => rowsOf(visits, grouping), [visits, grouping]);
  if (visits.length === 0)
    return <Empty title="No visit in this span.">A visit begins when a truck’s phone enters a farm’s or a plant’s fence.</Empty>;
  const left = (ms: number): number => Math.min(100, Math.max(0, ((ms - from) / (to - from)) * 100));
  const picked = visits.find((visit) => keyOf(visit) === chosen.value);
  const first = rows[0]?.visits[0];
  const focusable = picked ?? first;
  const ticks = ticksOf(from, to);
  return (
    <>
      <p class="legend" aria-hidden="true">
        <span class="bar-sample closed" /> left <span class="bar-sample open" /> there now{" "}
        <span class="bar-sample missed" /> exit never came <span class="bar-sample closed restated" /> restated{" "}
        <span class="bar-sample closed merged" /> flapping merged
      </p>
      <div class="timeline" onKeyDown={moveBetweenBars}>
        <div class="timeline-axis" aria-hidden="true">
          <div class="lane">
            {ticks.map((at) => (
              <span class="tick" key={at} style={{ left: `${left(at)}%` }}>
                {minuteTime(at)}
                <small>{dayName(at)}</small>
              </span>
            ))}
          </div>
        </div>
        <div class="rows" role="list" aria-label={grouping === "fence" ? "Fences" : "Trucks"}>
          {rows.map((row) => (
            <div class="row" role="listitem" key={row.id}>
              <a class="row-name clip" href={link("visits", grouping === "fence" ? { fence: row.id } : { device: row.id, by: "truck" })}>
                {row.title}
              </a>
              <div class="lane">
                {ticks.map((at) => (
                  <span class="line" key={at} style={{ left: `${left(at)}%` }} />
                ))}
                {row.visits.map((visit) => {
                  const start = left(Date.parse(visit.entered_at));
                  const end = left(endOf(visit, to));
                  const state = stateOf(visit);
                  const merged = (visit.crossings ?? 1) > 1 ? " merged" : "";
                  const who = grouping === "fence" ? visit.device_id : fenceName(visit.fence_id);
                  return (
                    <button
                      type="button"
                      key={keyOf(visit)}
                      class={`visit ${state}${visit.restated ? " restated" : ""}${merged}`}
                      style={{ left: `${start}%`, width: `${Math.max(0, end - start)}%` }}
                      tabIndex={visit === focusable ? 0 : -1}
                      aria-pressed={visit === picked}
                      aria-label={`${who}, entered ${minuteTime(Date.parse(visit.entered_at))}, ${wordsOf(visit).join(", ")}`}
                      title={`${who}\n${wordsOf(visit).join(", ")}`}
                      onClick={() => (chosen.value = visit === picked ? "" : keyOf(visit))}
                    />
                  );
                })}
              </div>
            </div>
          ))}
        </div>
      </div>
      <div class="picked" aria-live="polite">
        {picked ? (
          <VisitFacts visit={picked} />
        ) : (
          <p class="quiet">
            {plural(visits.length, "visit")}, {visits.filter((v) => v.open).length} there now. Choose a bar to read it; arrow
            keys go from bar to bar.
          </p>
        )}
      </div>
    </>
  );
}

/** The bars are one stop for the Tab key; the arrow keys move between them. */
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
        <dt>Fence</dt>
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
        <dt>Dwell</dt>
        <dd>
          {visit.dwell_seconds !== null
            ? span(visit.dwell_seconds)
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
        <dt>Its events</dt>
        <dd>
          <a href={link("events", { q: visit.entered_event_id })}>enter</a>
          {visit.exited_event_id && (
            <>
              {" · "}
              <a href={link("events", { q: visit.exited_event_id })}>exit</a>
            </>
          )}
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
  { name: "dwell_seconds", title: "Time in fences", unit: " h", show: (n) => decimal(n === null ? null : n / 3600) },
  { name: "events", title: "Events", unit: "", show: number },
];

function DailyTotals() {
  const asked = useAsked((signal) => ask<Daily>("/api/daily", { days: DAYS }, { signal }), [
    snapshots.value,
    downNames.value,
  ]);
  const days = asked.data?.days ?? [];
  return (
    <section class="card daily" aria-labelledby="daily">
      <div class="card-head">
        <h2 id="daily">Days</h2>
        <span class="quiet">totals from the marts, by UTC day</span>
      </div>
      {asked.problem && <Failed problem={asked.problem} what="The marts cannot be asked" again={asked.again} />}
      {!asked.data && asked.busy && <Loading what="Asking the marts …" />}
      {asked.data && !asked.data.built && (
        <Empty title="The marts are not built yet.">
          <code>python -m ops nightly</code> or <code>make demo</code> builds them with dbt.
        </Empty>
      )}
      {asked.data?.built && days.length === 0 && <Empty title="No day has anything yet." />}
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

/** The days up to the last one known, each in its place, those without anything too. */
function fortnight(days: Day[]): Day[] {
  const known = new Map(days.map((day) => [day.date, day]));
  const last = Math.max(...days.map((day) => Date.parse(day.date)));
  const nothing = { events: 0, visits: 0, collections: 0, litres: 0, kilometres: 0, dwell_seconds: 0, trucks: 0, farms: 0 };
  return Array.from({ length: DAYS }, (_, i) => {
    const date = new Date(last - (DAYS - 1 - i) * 24 * HOUR).toISOString().slice(0, 10);
    return known.get(date) ?? { date, ...nothing };
  });
}

function Plot({ days, measure }: { days: Day[]; measure: (typeof MEASURES)[number] }) {
  const ordered = fortnight(days);
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
        <span>{dayName(Date.parse(ordered[0]?.date ?? ""))}</span>
        <span>{dayName(Date.parse(latest?.date ?? ""))}</span>
      </p>
    </figure>
  );
}
