/**
 * The state of the server's event stream, as signals.
 *
 * Every connection begins with a snapshot that replaces all state, so that a browser that was disconnected misses
 * nothing and counts nothing twice.
 */

import { batch, computed, signal } from "@preact/signals";

import { setServerTime, setZone } from "./time_format";
import type { Counted, Event, Fence, Pipeline, Snapshot, Source, Stage, Truck, Visit } from "./contract";

/** The maximum number of events per kind in the list; the server keeps more. */
const KEPT = 500;

/** After an HTTP error, the browser does not reopen the stream, so the page does so after this time. */
const AGAIN_MS = 2000;

/** A hidden page closes its stream after this time, because browsers open only six connections for all tabs together. */
const HIDDEN_MS = 10_000;

export type Connection = "connecting" | "live" | "lost";

export const connection = signal<Connection>("connecting");
export const lostAt = signal<number | null>(null);
export const stage = signal<Stage | null>(null);
export const sources = signal<Source[]>([]);
export const fences = signal<Map<string, Fence>>(new Map());
export const trucks = signal<Map<string, Truck>>(new Map());
export const there = signal<Visit[]>([]);
export const pipeline = signal<Pipeline | null>(null);
export const good = signal<Event[]>([]);
export const bad = signal<Event[]>([]);
export const counted = signal<Counted>({ good: 0, bad: 0 });
/** Counts snapshots: data fetched separately may be stale after one. */
export const snapshots = signal(0);
/** Counts connections. A request that was sent before the latest one may never be answered. */
export const connections = signal(0);
/** Grows once per burst of visit messages, so that a burst causes one request, which reads the warehouse. */
export const visitChanges = signal(0);
const SETTLE_MS = 2500;
let settling = 0;

/** Counts messages that omitted events, after which a list may be incomplete. */
export const gaps = signal(0);

export const down = computed(() => sources.value.filter((source) => source.state === "down"));

/** If none of these sources can be reached, AWS as a whole is unavailable, and one message is enough. */
const OF_AWS = ["archive", "logs", "visits", "queues"];
export const isAwsGone = computed(() => {
  const gone = new Set(down.value.filter((source) => source.cause === "unreachable").map((source) => source.name));
  return OF_AWS.every((name) => gone.has(name));
});

/** The unavailable sources as one text; requests are repeated when it changes. */
export const downNames = computed(() => down.value.map((source) => source.name).join());

/** A command for this stage: without --stage, commands use the local stack. */
export const command = (text: string): string =>
  stage.value && !stage.value.local ? `${text} --stage ${stage.value.stage}` : text;

export const fenceName = (id: string): string => fences.value.get(id)?.name ?? id.slice(id.indexOf("#") + 1);

function newest(fresh: Event[], held: Event[]): Event[] {
  const first = held[0]?.seq ?? -1;
  const added = fresh.filter((event) => event.seq > first);
  return added.length > 0 ? [...added, ...held].slice(0, KEPT) : held;
}

const handlers: Record<string, (data: never) => void> = {
  snapshot(data: Snapshot) {
    setServerTime(data.stage.now);
    stage.value = data.stage;
    setZone(data.stage.time_zone);
    sources.value = data.sources;
    fences.value = new Map(data.fences.map((fence) => [fence.fence_id, fence]));
    trucks.value = new Map(data.trucks.map((truck) => [truck.device_id, truck]));
    there.value = data.there;
    pipeline.value = data.pipeline;
    good.value = data.events.good;
    bad.value = data.events.bad;
    counted.value = data.events.counted;
    if (connection.value !== "live") connections.value += 1;
    connection.value = "live";
    lostAt.value = restedAt = null;
    snapshots.value += 1;
  },
  trucks(data: { trucks: Truck[] }) {
    const all = new Map(trucks.value);
    for (const truck of data.trucks) all.set(truck.device_id, truck);
    trucks.value = all;
  },
  visits(data: { there: Visit[] }) {
    there.value = data.there;
    settling ||= window.setTimeout(() => {
      settling = 0;
      visitChanges.value += 1;
    }, SETTLE_MS);
  },
  events(data: { good: Event[]; bad: Event[]; counted: Counted; left_out: number }) {
    // After a gap, the events held so far are dropped, because the list would hide the gap.
    good.value = newest(data.good, data.left_out > 0 ? [] : good.value);
    bad.value = newest(data.bad, data.left_out > 0 ? [] : bad.value);
    counted.value = data.counted;
    if (data.left_out > 0) gaps.value += 1;
  },
  pipeline(data: Pipeline) {
    pipeline.value = data;
  },
  fences(data: { fences: Fence[] }) {
    fences.value = new Map(data.fences.map((fence) => [fence.fence_id, fence]));
  },
  sources(data: { sources: Source[] }) {
    sources.value = data.sources;
  },
};

/** The time at which a hidden page closed its stream. */
let restedAt: number | null = null;

function lost(): void {
  if (connection.value === "lost") return;
  connection.value = "lost";
  lostAt.value ??= restedAt ?? Date.now(); // the latest data is from the moment when the last connection ended
}

let stream: EventSource | null = null;

function open(): void {
  const mine = (stream = new EventSource("/api/stream"));
  for (const [name, handle] of Object.entries(handlers)) {
    mine.addEventListener(name, (message) => {
      const data: unknown = JSON.parse((message as MessageEvent<string>).data);
      batch(() => handle(data as never));
    });
  }
  mine.addEventListener("error", () => {
    lost();
    // The browser reopens the stream by itself, unless the server answered with an error.
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => stream === mine && open(), AGAIN_MS);
  });
}

function rest(): void {
  stream?.close();
  stream = null;
  if (connection.value === "live") restedAt = Date.now();
  connection.value = "connecting";
}

/** Open the stream, and keep it open except while the page is hidden. */
export function connect(): void {
  let hiding = 0;
  const seen = (): void => {
    clearTimeout(hiding);
    if (document.hidden) hiding = window.setTimeout(rest, HIDDEN_MS);
    else if (!stream) open();
  };
  open();
  seen();
  document.addEventListener("visibilitychange", seen);
}
