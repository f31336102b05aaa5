/** The shapes that the console's server sends. Strings from events are untrusted, so they are only ever shown as text. */

export type Iso = string;
export type Position = [lon: number, lat: number];

export interface Stage {
  stage: string;
  local: boolean;
  region: string;
  endpoint: string;
  bucket: string;
  database: string;
  version: string;
  live_bus: boolean;
  tiles: string | null;
  time_zone: string;
  now: Iso;
}

export interface Source {
  name: string;
  state: "starting" | "ok" | "down" | "off" | "idle";
  since: Iso;
  reason: string | null;
  cause: "unreachable" | "credentials" | "other" | null;
  last_ok_at: Iso | null;
  what: string;
}

export interface Fence {
  fence_id: string;
  tag: string;
  external_id: string;
  kind: "farm" | "plant" | "other";
  name: string;
  centre: Position | null;
  radius_m: number | null;
  polygon: Position[] | null;
  source: "file" | "geometry" | "events";
  samples: number;
  there: number;
}

export interface Truck {
  device_id: string;
  position: Position | null;
  heading: number | null;
  speed_kmh: number | null;
  at: Iso;
  received_at: Iso;
  type: string;
  accuracy_m: number | null;
  inside: string[];
  heard_at: Iso;
  last_type: string;
  silence: string;
}

export interface Visit {
  device_id: string;
  geofence_tag: string;
  geofence_external_id: string;
  fence_id: string;
  entered_at: Iso;
  exited_at: Iso | null;
  dwell_seconds: number | null;
  entered_event_id: string;
  exited_event_id: string | null;
  exit_missed: boolean;
  open: boolean;
  last_seen_at: Iso | null;
  app_dwell_seconds: number | null;
  restated: boolean;
  crossings: number | null;
  contradicted_by_event_id: string | null;
  exit_inferred_at: Iso | null;
  seen_at_fence_id: string | null;
  usual_dwell_seconds: number | null;
}

export interface Place {
  fence_id: string;
  tag: string;
  external_id: string;
  kind: "farm" | "plant" | "other";
  name: string;
  there: number;
  visits_today: number;
  last_device_id: string | null;
  last_entered_at: Iso | null;
  last_exited_at: Iso | null;
  usual_dwell_seconds: number | null;
}

export interface Found {
  trucks: string[];
  places: { fence_id: string; name: string; tag: string }[];
  events: { event_id: string; type: string | null; device_id: string | null; kind: Event["kind"]; key: string; line: number }[];
  objects: string[];
  trace: string | null;
  searched: string;
}

export interface Visits {
  visits: Visit[];
  from: Iso;
  to: Iso;
  source: string[];
  missing: string[];
  more: number;
}

export type StageState = "ok" | "idle" | "waiting" | "stuck" | "unknown";

export interface PipelineStage {
  name: string;
  title: string;
  count: number | null;
  total: number | null;
  rate: number | null;
  lag_s: number | null;
  per_minute: number[];
  last_at: Iso | null;
  state: StageState;
  note: string | null;
  detail: string | null;
}

export interface Difference {
  kind: string;
  meaning: string;
  key: string;
  line: number | null;
  lines: number | null;
  rows: number | null;
  events: string[];
}

export interface Reconcile {
  state: "never" | "running" | "done" | "failed";
  equal: boolean | null;
  at: Iso | null;
  seconds: number | null;
  from: Iso | null;
  to: Iso | null;
  differences: Difference[];
  more: number;
  in_flight: number;
  geofence_events: { archived: number; consumed: number; too_old: number } | null;
  problem: string | null;
}

export interface Pipeline {
  verdict: "healthy" | "busy" | "stuck" | "unknown" | "idle";
  says: string;
  stuck_at: string | null;
  stages: PipelineStage[];
  waiting: {
    redrive_queue: number | null;
    dead_letters: number | null;
    pipes: Record<string, { state: string; pending_files: number | null }> | null;
  };
  latency: {
    store_ms_p50: number | null;
    store_ms_p99: number | null;
    publish_ms_p50: number | null;
    publish_ms_p99: number | null;
    lateness_s_p50: number | null;
    lateness_s_p99: number | null;
    answered: Record<string, number>;
    rejected_by_code: Record<string, number>;
  };
  reconcile: Reconcile;
  window: { from: Iso; minutes: number };
}

export interface Reason {
  code: string;
  field: string;
  message: string;
}

export interface Event {
  seq: number;
  kind: "good" | "bad";
  event_id: string | null;
  type: string | null;
  device_id: string | null;
  at: string | null;
  received_at: Iso;
  key: string;
  line: number;
  size: number;
  fence_id?: string | null;
  codes?: string[];
  reasons?: Reason[];
  app_version?: string | null;
}

export interface EventPage {
  events: Event[];
  next: string | null;
  types: string[];
  codes: string[];
  held: { good: number; bad: number };
  counted: Counted;
}

export interface Counted {
  good: number;
  bad: number;
}

export interface EventDetail extends Event {
  raw: string;
  stored: string;
  raw_truncated: boolean;
  s3_uri: string;
  sql: string;
}

export interface Journey {
  what: string;
  found: boolean;
  searched: string[];
  steps: { what: string; at: Iso | null; lag_s: number | null; detail: Record<string, unknown> | null }[];
  s3_uris: string[];
  sql: string[];
}

export interface Day {
  date: string;
  events: number;
  visits: number;
  collections: number;
  litres: number | null;
  kilometres: number | null;
  dwell_seconds: number | null;
  trucks: number;
  farms: number;
}

export interface Daily {
  days: Day[];
  /** The first day with complete totals. If `cut`, earlier days have too many rows. */
  from: string;
  cut: boolean;
  built: boolean;
}

export interface ReplayRange {
  days: string[];
  suggested: { from: Iso; to: Iso } | null;
}

export interface ReplayTruck {
  device_id: string;
  t: number[];
  lon: number[];
  lat: number[];
}

export interface Replay {
  from: Iso;
  to: Iso;
  events: number;
  objects: number;
  truncated: boolean;
  trucks: ReplayTruck[];
  visits: Visit[];
}

export interface Trail {
  device_id: string;
  points: [t: number, lon: number, lat: number][];
}

export interface Snapshot {
  stage: Stage;
  sources: Source[];
  fences: Fence[];
  trucks: Truck[];
  there: Visit[];
  pipeline: Pipeline;
  events: { good: Event[]; bad: Event[]; counted: Counted };
}
