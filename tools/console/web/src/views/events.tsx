/** The latest accepted and rejected events, each with its reasons, text as sent, S3 key and journey. */

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { ask } from "../api";
import { span, Time } from "../time_format";
import type { Event, EventDetail, EventPage, Journey } from "../contract";
import { bad, connections, counted, downNames, fenceName, gaps, good, snapshots, stage } from "../live";
import { pretty } from "../pretty_json";
import { choose, link, param } from "../route";
import { Copy, Empty, Failed, Loading, number, plural, Segments, useAsked } from "../ui";

type Kind = "all" | "good" | "bad";

interface Filter {
  kind: Kind;
  type: string;
  device: string;
  code: string;
  q: string;
}

const KINDS: readonly (readonly [Kind, string])[] = [
  ["all", "All"],
  ["good", "Accepted"],
  ["bad", "Rejected"],
];
const PAGE = 100;
/** Rows shown at once; older ones on request. */
const SHOWN = 400;
/** Events left out of the stream are requested at most this often. */
const GAP_MS = 3000;

const filterNow = (): Filter => {
  const kind = param("kind");
  return {
    kind: kind === "good" || kind === "bad" ? kind : "all",
    type: param("type"),
    device: param("device"),
    code: param("code"),
    q: param("q"),
  };
};

/** The chosen event as named in the address: by its id and device, otherwise by object and line. */
interface Chosen {
  event: string;
  of: string;
  key: string;
  line: string;
}

const chosenNow = (): Chosen | null =>
  param("event") || param("key") ? { event: param("event"), of: param("of"), key: param("key"), line: param("line") || "1" } : null;

/** Devices may use the same id. Rejected events are named by object and line, because their ids may be missing or repeated. */
export const nameOf = (
  event: Pick<Event, "kind" | "event_id" | "device_id" | "key" | "line">,
): Record<keyof Chosen, string | null> =>
  event.kind === "good" && event.event_id
    ? { event: event.event_id, of: event.device_id, key: null, line: null }
    : { event: null, of: null, key: event.key, line: String(event.line) };

const isChosen = (event: Event, chosen: Chosen | null): boolean =>
  chosen !== null &&
  (chosen.event ? event.event_id === chosen.event && (!chosen.of || event.device_id === chosen.of) : event.key === chosen.key && String(event.line) === chosen.line);

function matches(event: Event, filter: Filter): boolean {
  const { kind, type, device, code, q } = filter;
  const text = `${event.event_id ?? ""}\n${event.device_id ?? ""}\n${event.type ?? ""}`;
  return (
    (kind === "all" || event.kind === kind) &&
    (!type || event.type === type) &&
    (!device || event.device_id === device) &&
    (!code || (event.codes ?? []).includes(code)) &&
    (!q || text.toLowerCase().includes(q.toLowerCase()))
  );
}

/** Merge the server's answer and the events received since, each once, newest first. */
function merged(filter: Filter, ...lists: Event[][]): Event[] {
  const all = new Map<number, Event>();
  for (const event of lists.flat()) if (matches(event, filter)) all.set(event.seq, event);
  return [...all.values()].sort((one, other) => other.seq - one.seq);
}

export function EventsView() {
  const filter = filterNow();
  const chosen = chosenNow();
  const older = useSignal<Event[]>([]);
  const next = useSignal<string | null>(null);
  const held = useSignal<Event[] | null>(null);
  const most = useSignal(SHOWN);
  const key = JSON.stringify(filter);
  const page = useAsked(
    (signal) => ask<EventPage>("/api/events", { ...filter, limit: PAGE }, { signal }),
    [key, connections.value],
    [snapshots.value, downNames.value, useSlowly(gaps.value)],
  );
  const olderProblem = useSignal<Error | null>(null);

  /** The list to which older events are added. Answers for an earlier list are ignored. */
  const list = useRef({});
  const begin = (data: EventPage | null): void => {
    list.current = {};
    older.value = [];
    next.value = data?.next ?? null;
    most.value = SHOWN;
  };
  useEffect(() => {
    if (older.value.length === 0 && !held.value) next.value = page.data?.next ?? null;
  }, [page.data]);
  useEffect(() => {
    held.value = null;
    begin(null);
  }, [key, snapshots.value]);
  useEffect(() => {
    if (!held.value) begin(null);
  }, [gaps.value]);

  const more = (): void => {
    olderProblem.value = null;
    most.value += PAGE;
    if (!next.value || rows.length >= most.value) return;
    const mine = list.current;
    ask<EventPage>("/api/events", { ...filter, limit: PAGE, before: next.value }).then(
      (answer) => {
        if (list.current !== mine) return;
        older.value = [...older.value, ...answer.events];
        next.value = answer.next;
      },
      (problem: Error) => list.current === mine && (olderProblem.value = problem),
    );
  };

  const live = merged(filter, good.value, bad.value, page.data?.events ?? [], older.value);
  const rows = held.value ? merged(filter, held.value, older.value) : live;
  const waiting = held.value ? live.filter((event) => event.seq > (held.value?.[0]?.seq ?? -1)).length : 0;
  const filtered = filter.type || filter.device || filter.code || filter.q;
  const totals = counted.value;

  return (
    <div class={`page events${chosen ? " has-detail" : ""}`}>
      <div class="bar">
        <h1>Events</h1>
        <p class="counted">
          <span class="n">{number(totals.good)}</span> accepted, <span class="n">{number(totals.bad)}</span> rejected
          <span class="quiet">, counted by this console</span>
        </p>
        <span class="spacer" />
        <button
          type="button"
          aria-pressed={held.value !== null}
          onClick={() => {
            if (held.value) begin(page.data);
            held.value = held.value ? null : live;
          }}
          class="hold"
        >
          {held.value ? `Resume (${number(waiting)} new)` : "Pause"}
        </button>
      </div>
      <Filters filter={filter} types={page.data?.types ?? []} codes={page.data?.codes ?? []} />
      <div class="split">
        <section class="card list" aria-label="Latest events">
          {page.problem && <Failed problem={page.problem} what="The events could not be read" again={page.again} />}
          {rows.length === 0 && !page.problem ? (
            page.busy ? (
              <Loading what="Reading …" />
            ) : (
              <Empty title={filtered || filter.kind !== "all" ? "No event matches." : "No events yet."}>
                {filtered ? (
                  <button type="button" onClick={() => choose({ type: null, device: null, code: null, q: null })}>
                    Clear the filter
                  </button>
                ) : (
                  <p>
                    Post one to <code class="wrap">{stage.value?.endpoint}</code>
                  </p>
                )}
              </Empty>
            )
          ) : (
            <EventTable rows={rows.slice(0, most.value)} chosen={chosen} />
          )}
          {olderProblem.value && <Failed problem={olderProblem.value} what="Older events could not be read" again={more} />}
          {(next.value ? rows.length > 0 : rows.length > most.value) && (
            <button type="button" class="older" onClick={more}>
              Older events
            </button>
          )}
        </section>
        {chosen && <Detail chosen={chosen} key={JSON.stringify(chosen)} />}
      </div>
    </div>
  );
}

/** Return the value, updated only every few seconds. */
function useSlowly(value: number): number {
  const [slow, setSlow] = useState(value);
  const timer = useRef(0);
  useEffect(() => {
    if (value === slow || timer.current) return;
    timer.current = window.setTimeout(() => {
      timer.current = 0;
      setSlow(gaps.peek());
    }, GAP_MS);
  }, [value, slow]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return slow;
}

function Filters({ filter, types, codes }: { filter: Filter; types: string[]; codes: string[] }) {
  const withChosen = (values: string[], value: string): string[] =>
    value && !values.includes(value) ? [value, ...values] : values;
  return (
    <search class="filters">
      <Segments label="Kind" options={KINDS} value={filter.kind} onChange={(kind) => choose({ kind: kind === "all" ? null : kind })} />
      <label>
        <span>Type</span>
        <select value={filter.type} onChange={(event) => choose({ type: event.currentTarget.value })}>
          <option value="">any</option>
          {withChosen(types, filter.type).map((type) => (
            <option key={type} value={type}>
              {type}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span>Code</span>
        <select value={filter.code} onChange={(event) => choose({ code: event.currentTarget.value })}>
          <option value="">any</option>
          {withChosen(codes, filter.code).map((code) => (
            <option key={code} value={code}>
              {code}
            </option>
          ))}
        </select>
      </label>
      <Typed label="Device" name="device" value={filter.device} placeholder="full device id" />
      <Typed label="Search" name="q" value={filter.q} placeholder="id, device or type" />
    </search>
  );
}

/** A text field that filters once the typing pauses. */
function Typed({ label, name, value, placeholder }: { label: string; name: string; value: string; placeholder: string }) {
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => {
    if (value !== text.trim()) setText(value); // keep a typed blank at the end, because another word may follow
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []); // otherwise the timer would set the filter in another view
  const typed = (now: string): void => {
    setText(now);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => choose({ [name]: now.trim() || null }, true), 250);
  };
  return (
    <label>
      <span>{label}</span>
      <input
        type="search"
        value={text}
        placeholder={placeholder}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => typed(event.currentTarget.value)}
      />
    </label>
  );
}

function EventTable({ rows, chosen }: { rows: Event[]; chosen: Chosen | null }) {
  return (
    <table class="event-table">
      <thead>
        <tr>
          <th scope="col">Received</th>
          <th scope="col">Type</th>
          <th scope="col" class="wide">
            Device
          </th>
          <th scope="col">Id or reason</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((event) => (
          <EventRow key={event.seq} event={event} chosen={isChosen(event, chosen)} />
        ))}
      </tbody>
    </table>
  );
}

/** A long type breaks after its dots and underscores. */
const breakable = (type: string) => type.split(/(?<=[._])/).flatMap((part, i) => (i > 0 ? [<wbr key={i} />, part] : [part]));

function EventRow({ event, chosen }: { event: Event; chosen: boolean }) {
  const open = (): void => choose(nameOf(event));
  const isBad = event.kind === "bad";
  return (
    <tr class={`event-row${chosen ? " chosen" : ""}`} onClick={open}>
      <td class="when">
        <span class={`kind kind-${event.kind}`} aria-hidden="true">
          {isBad ? "×" : "·"}
        </span>
        <Time at={event.received_at} />
      </td>
      <td>
        <button
          type="button"
          class="row-link clip"
          aria-label={`${isBad ? "Rejected" : "Accepted"} event: ${event.type ?? "no type"}, ${event.event_id ?? "no id"}`}
          aria-expanded={chosen}
          onClick={(click) => {
            click.stopPropagation();
            open();
          }}
        >
          {event.type === null ? <span class="quiet">no type</span> : breakable(event.type)}
        </button>
        <span class="narrow clip quiet">{event.device_id ?? "no device"}</span>
      </td>
      <td class="wide">
        <span class="clip">{event.device_id ?? <span class="quiet">no device</span>}</span>
      </td>
      <td>
        {isBad ? (
          <span class="codes">
            {(event.codes ?? []).map((code) => (
              <span class="code" key={code}>
                {code}
              </span>
            ))}
          </span>
        ) : (
          <code class="clip">{event.event_id}</code>
        )}
      </td>
    </tr>
  );
}

function Detail({ chosen }: { chosen: Chosen }) {
  const query = chosen.event ? { event_id: chosen.event, device_id: chosen.of } : { key: chosen.key, line: chosen.line };
  const asked = useAsked((signal) => ask<EventDetail>("/api/event", query, { signal }), [connections.value], [snapshots.value]);
  const heading = useRef<HTMLHeadingElement>(null);
  // Focus before the first paint, so that an immediate Escape closes the event.
  useLayoutEffect(() => heading.current?.focus(), []);
  const close = (): void => choose({ event: null, of: null, key: null, line: null });
  const event = asked.data;
  return (
    <aside
      class="card detail"
      aria-label="The chosen event"
      onKeyDown={(key) => {
        if (key.key === "Escape") close();
      }}
    >
      <div class="card-head">
        <h2 ref={heading} tabIndex={-1} class="clip">
          {event ? (event.kind === "bad" ? "Rejected" : event.type) : "Event"}
        </h2>
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
      {asked.problem && <Failed problem={asked.problem} what="This event could not be read" again={asked.again} />}
      {asked.busy && !event && <Loading what="Reading the event …" />}
      {event && <EventFacts event={event} />}
    </aside>
  );
}

function EventFacts({ event }: { event: EventDetail }) {
  return (
    <>
      {(event.reasons ?? []).length > 0 && (
        <ul class="reasons" aria-label="Reasons">
          {(event.reasons ?? []).map((reason) => (
            <li key={`${reason.code}${reason.field}`}>
              <span class="code">{reason.code}</span>
              {reason.field && <code class="wrap">{reason.field}</code>}
              <p>{reason.message}</p>
            </li>
          ))}
        </ul>
      )}
      <dl class="facts">
        <div>
          <dt>Id</dt>
          <dd>
            <code class="wrap">{event.event_id ?? "none"}</code>
          </dd>
        </div>
        <div>
          <dt>Type</dt>
          <dd class="wrap">{event.type ?? "none"}</dd>
        </div>
        <div>
          <dt>Device</dt>
          <dd class="wrap">
            {event.device_id ? <a href={link("events", { device: event.device_id })}>{event.device_id}</a> : "none"}
          </dd>
        </div>
        {event.fence_id && (
          <div>
            <dt>Fence</dt>
            <dd class="wrap">
              <a href={link("visits", { fence: event.fence_id })}>{fenceName(event.fence_id)}</a>
            </dd>
          </div>
        )}
        <div>
          <dt>Time on the phone</dt>
          <dd class="wrap">
            <Time at={event.at} precise />
          </dd>
        </div>
        <div>
          <dt>Received</dt>
          <dd>
            <Time at={event.received_at} precise />
          </dd>
        </div>
        {event.app_version && (
          <div>
            <dt>App</dt>
            <dd class="wrap">{event.app_version}</dd>
          </div>
        )}
        <div class="stacked">
          <dt>Stored in</dt>
          <dd>
            <code class="wrap">{event.s3_uri}</code>, line {event.line}
          </dd>
        </div>
      </dl>
      <div class="buttons">
        <Copy text={event.s3_uri} label="Copy S3 address" />
        <Copy text={event.key} label="Copy S3 key" />
        <Copy text={event.sql} label="Copy SQL" />
        <Copy text={event.raw} label="Copy event" />
      </div>
      <JourneyPart event={event} />
      <AsSent raw={event.raw} cut={event.raw_truncated} />
    </>
  );
}

type Form = "sent" | "lines";
const FORMS: readonly (readonly [Form, string])[] = [
  ["sent", "As sent"],
  ["lines", "Formatted"],
];

/** The event's text as stored; formatted only on request. */
function AsSent({ raw, cut }: { raw: string; cut: boolean }) {
  const [form, setForm] = useState<Form>("sent");
  return (
    <>
      <div class="raw-head">
        <h3>Text{cut && " (beginning)"}</h3>
        <Segments label="Form of the text" options={FORMS} value={form} onChange={setForm} />
      </div>
      <pre class="raw" tabIndex={0} aria-label={form === "sent" ? "The event as sent" : "The event, formatted"}>
        {form === "sent" ? raw : pretty(raw)}
      </pre>
    </>
  );
}

function JourneyPart({ event }: { event: EventDetail }) {
  const [wanted, setWanted] = useState(false);
  const query = event.kind === "good" && event.event_id ? { event_id: event.event_id, device_id: event.device_id } : { key: event.key };
  const asked = useAsked(wanted ? (signal) => ask<Journey>("/api/where", query, { signal }) : null, [wanted]);
  if (!wanted)
    return (
      <button type="button" class="primary" onClick={() => setWanted(true)}>
        Show its journey
      </button>
    );
  return (
    <section aria-label="Journey">
      <h3>Journey</h3>
      {asked.busy && <Loading what="Searching all stores …" />}
      {asked.problem && <Failed problem={asked.problem} what="The journey could not be read" again={asked.again} />}
      {asked.data && (
        <>
          {!asked.data.found && (
            <p class="quiet">Not found. Searched: {asked.data.searched.join(", ") || "nothing"}.</p>
          )}
          <ol class="journey">
            {asked.data.steps.map((step, i) => (
              <li key={i}>
                <strong>{step.what.replaceAll("_", " ")}</strong>{" "}
                <span class="quiet">
                  <Time at={step.at} />
                  {step.lag_s !== null && ` · ${step.lag_s >= 0 ? "+" : "−"}${span(Math.abs(step.lag_s))}`}
                </span>
                {Object.entries(step.detail ?? {}).map(([name, value]) => (
                  <div class="step-detail" key={name}>
                    <span class="quiet">{name.replaceAll("_", " ")}</span>{" "}
                    <code class="wrap">{typeof value === "string" ? value : JSON.stringify(value)}</code>
                  </div>
                ))}
              </li>
            ))}
          </ol>
          <div class="buttons">
            {asked.data.sql.map((sql, i) => (
              <Copy key={sql} text={sql} label={asked.data && asked.data.sql.length > 1 ? `Copy SQL ${i + 1}` : "Copy its SQL"} />
            ))}
            {asked.data.s3_uris.map((uri) => (
              <Copy key={uri} text={uri} label="Copy its S3 address" />
            ))}
          </div>
          {asked.data.steps.length > 0 && <p class="quiet">{plural(asked.data.steps.length, "step")}, as in <code>milkrun trace</code>.</p>}
        </>
      )}
    </section>
  );
}
