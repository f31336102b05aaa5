/** Times: shown in the viewer's zone, UTC on hover; ages by the server's clock, which the events were received by. */

import { signal } from "@preact/signals";

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

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clockMs = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});
const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const weekday = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short" });
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

const ofMs = (ms: number, format: Intl.DateTimeFormat): string => format.format(new Date(ms));

export const clockTime = (ms: number): string => ofMs(ms, clock);
export const minuteTime = (ms: number): string => ofMs(ms, minutes);
export const dayName = (ms: number): string => ofMs(ms, weekday);
export const utc = (ms: number): string => `${new Date(ms).toISOString().replace("T", " ").replace("Z", "")} UTC`;

const sameDay = (one: number, other: number): boolean => new Date(one).toDateString() === new Date(other).toDateString();

interface TimeProps {
  at: string | null;
  precise?: boolean;
}

/** What an event calls its time may be no time at all: then it is shown as it was sent. */
export function Time({ at, precise = false }: TimeProps) {
  if (!at) return <span class="quiet">–</span>;
  const ms = Date.parse(at);
  if (Number.isNaN(ms)) return <span class="clip">{at}</span>;
  const shown = ofMs(ms, precise ? clockMs : clock);
  return (
    <time dateTime={at} title={utc(ms)}>
      {sameDay(ms, now.peek()) ? shown : `${ofMs(ms, day)} ${shown}`}
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

/** Whole seconds: an age that shows tenths would jump about. */
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
