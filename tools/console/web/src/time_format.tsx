/** Show times in the fleet's time zone (a stage setting), with UTC on hover, and ages by the server's clock. */

import { computed, signal } from "@preact/signals";

let aheadMs = 0;

/** Ticks once a second, by the server's clock. */
export const now = signal(Date.now());

export function setServerTime(iso: string): void {
  aheadMs = Date.parse(iso) - Date.now();
  now.value = Date.now() + aheadMs;
}

setInterval(() => {
  now.value = Date.now() + aheadMs;
}, 1000);

/** The fleet's time zone, in which times are shown and days end; only the days of the daily totals are UTC days. */
export const zone = signal("UTC");

interface Formats {
  clock: Intl.DateTimeFormat;
  clockMs: Intl.DateTimeFormat;
  minutes: Intl.DateTimeFormat;
  day: Intl.DateTimeFormat;
  weekday: Intl.DateTimeFormat;
  date: Intl.DateTimeFormat;
}

const time = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const;
const made = new Map<string, Formats>();

function formats(): Formats {
  const timeZone = zone.value;
  let found = made.get(timeZone);
  if (!found) {
    const format = (options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat =>
      new Intl.DateTimeFormat("en-GB", { ...options, timeZone });
    found = {
      clock: format({ ...time, second: "2-digit" }),
      clockMs: format({ ...time, second: "2-digit", fractionalSecondDigits: 3 }),
      minutes: format(time),
      day: format({ day: "numeric", month: "short" }),
      weekday: format({ weekday: "short", day: "numeric", month: "short" }),
      date: new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit", timeZone }),
    };
    made.set(timeZone, found);
  }
  return found;
}

export function setZone(name: string): void {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    zone.value = name;
  } catch {
    zone.value = "UTC"; // a zone that this browser does not know
  }
}

export const clockTime = (ms: number): string => formats().clock.format(ms);
export const minuteTime = (ms: number): string => formats().minutes.format(ms);
export const dayName = (ms: number): string => formats().weekday.format(ms);
/** YYYY-MM-DD in the fleet's zone. */
export const dateOf = (ms: number): string => formats().date.format(ms);
/** The fleet's date. It changes only at midnight, so that a view that uses it is not drawn every second. */
export const today = computed(() => dateOf(now.value));
export const utc = (ms: number): string => `${new Date(ms).toISOString().replace("T", " ").replace("Z", "")} UTC`;

/** Return the fleet's offset from UTC at that moment, in milliseconds. */
function aheadOfUtc(ms: number): number {
  const wall = `${dateOf(ms)}T${formats().clockMs.format(ms)}Z`;
  return Date.parse(wall) - ms;
}

/**
 * The moment of a wall-clock time such as 2026-11-28T00:00 in the fleet's zone; NaN if it is invalid. A time that a clock
 * change skips, such as midnight in Chile in September, is after the change.
 */
export function momentOf(wall: string): number {
  const asUtc = Date.parse(`${wall}Z`);
  if (Number.isNaN(asUtc)) return NaN;
  const guess = asUtc - aheadOfUtc(asUtc);
  const found = asUtc - aheadOfUtc(guess);
  return aheadOfUtc(found) === aheadOfUtc(guess) ? found : Math.max(found, guess);
}

/** The wall-clock time of a moment, in the format of datetime-local inputs. */
export const wallOf = (ms: number): string => `${dateOf(ms)}T${minuteTime(ms)}`;

export const startOfDay = (date: string): number => momentOf(`${date}T00:00`);

/** Midnight at the end of that date, 23 or 25 hours after its beginning when the clocks change. */
export function endOfDay(date: string): number {
  const next = new Date(Date.parse(`${date}T12:00Z`) + 24 * 3_600_000).toISOString().slice(0, 10);
  return startOfDay(next);
}

/** Return whether the text is a date of the calendar since 2000, such as 2026-02-28 but not 2026-02-31. */
export function isDate(text: string): boolean {
  if (!/^2\d{3}-\d\d-\d\d$/.test(text)) return false;
  const ms = Date.parse(`${text}T12:00Z`);
  return !Number.isNaN(ms) && new Date(ms).toISOString().startsWith(text);
}

const inUtc = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", timeZone: "UTC" });

/** The name of a date, which is the same in every time zone. */
export const dateName = (date: string): string => inUtc.format(Date.parse(`${date}T12:00Z`));

const sameDay = (one: number, other: number): boolean => dateOf(one) === dateOf(other);

interface TimeProps {
  at: string | null;
  precise?: boolean;
}

/** An invalid time of an event is shown as sent. */
export function Time({ at, precise = false }: TimeProps) {
  if (!at) return <span class="quiet">–</span>;
  const ms = Date.parse(at);
  if (Number.isNaN(ms)) return <span class="clip">{at}</span>;
  const shown = (precise ? formats().clockMs : formats().clock).format(ms);
  return (
    <time dateTime={at} title={utc(ms)}>
      {sameDay(ms, now.peek()) ? shown : `${formats().day.format(ms)} ${shown}`}
    </time>
  );
}

export function span(seconds: number): string {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  const m = Math.round(s / 60);
  if (m < 100) return `${m} min`;
  const h = Math.floor(m / 60);
  return h < 48 ? `${h} h ${String(m % 60).padStart(2, "0")} min` : `${Math.round(h / 24)} days`;
}

/** An age in whole seconds, because changing tenths are hard to read. */
export function ageText(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  return s < 100 ? `${s} s` : span(s);
}

export function Age({ at }: { at: string }) {
  const ms = Date.parse(at);
  return (
    <time dateTime={at} title={utc(ms)}>
      {ageText(now.value - ms)}
    </time>
  );
}
