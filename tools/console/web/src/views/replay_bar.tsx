/** The replay bar of the map: choose a time span of the archive and play it. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { ask } from "../api";
import { clockTime, dateOf, dayName, momentOf, now, startOfDay, Time, utc, wallOf } from "../time_format";
import type { Replay, ReplayRange } from "../contract";
import { replay, replayAt } from "../map/shown";
import { choose, param } from "../route";
import { Failed, plural, useAsked } from "../ui";

const TICK_MS = 500;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
/** The server replays at most 24 hours. */
const LONGEST_MS = 24 * HOUR_MS;
const SPEEDS = [1, 10, 60, 300, 900];

export function ReplayBar() {
  const open = useSignal(replay.peek() !== null || param("from") !== "");
  const problem = useSignal<Error | null>(null);
  // A link contains the time range of its replay, so it still works after the console has restarted.
  useEffect(() => {
    if (!param("from") || !param("to") || replay.peek()) return;
    load(param("from"), param("to"), Date.parse(param("at"))).catch((error: Error) => (problem.value = error));
  }, []);
  if (!open.value && !replay.value)
    return (
      <div class="replay">
        <button type="button" onClick={() => (open.value = true)}>
          Replay a morning …
        </button>
        <span class="quiet">The map is live.</span>
      </div>
    );
  const close = (): void => {
    asking.abort();
    replay.value = null;
    open.value = false;
    choose({ from: null, to: null, at: null }, true);
  };
  return (
    <section class="replay" aria-label="Replay">
      {replay.value ? <Player played={replay.value} onClose={close} /> : <Chooser onClose={close} />}
      {problem.value && <Failed problem={problem.value} what="The linked replay could not be read" />}
    </section>
  );
}

let asking = new AbortController();

/**
 * Read a time span of the archive and show the time `at`; by default, the time at which the first truck appears. Closing
 * the replay abandons the request, whose answer would otherwise replace the live map.
 */
async function load(from: string, to: string, at: number | null): Promise<void> {
  asking.abort();
  const mine = (asking = new AbortController());
  let answer: Replay;
  try {
    answer = await ask<Replay>("/api/replay", { from, to }, { signal: mine.signal });
  } catch (error) {
    if (mine.signal.aborted) return;
    throw error;
  }
  if (mine.signal.aborted) return;
  const first = Math.min(...answer.trucks.flatMap((truck) => truck.t.slice(0, 1)), Infinity);
  const begins = Date.parse(answer.from) + (Number.isFinite(first) ? first : 0);
  replayAt.value = at === null || Number.isNaN(at) ? begins : Math.min(Math.max(at, Date.parse(answer.from)), Date.parse(answer.to));
  replay.value = answer;
}

const MORNING_HOURS = [4, 12] as const;

/** Return the beginning and end of the morning of a date in the fleet's zone. */
const morningOf = (date: string): [number, number] => {
  const midnight = startOfDay(date);
  return [midnight + MORNING_HOURS[0] * HOUR_MS, midnight + MORNING_HOURS[1] * HOUR_MS];
};

/** Return the fleet's dates whose mornings are on these UTC days, the latest first. In New Zealand, a morning is on the
 *  previous UTC day. */
function datesOf(days: string[], nowMs: number): string[] {
  const utcDay = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
  const dates = new Set(days.flatMap((day) => [-24, 0, 24].map((hours) => utcDay(Date.parse(`${day}T00:00Z`) + hours * HOUR_MS))));
  return [...dates]
    .filter((date) => {
      const [from, to] = morningOf(date);
      return from < nowMs && [from, to - 1].some((ms) => days.includes(utcDay(ms)));
    })
    .sort()
    .reverse();
}

function Chooser({ onClose }: { onClose: () => void }) {
  const range = useAsked((signal) => ask<ReplayRange>("/api/replay/range", {}, { signal }), []);
  const from = useSignal("");
  const to = useSignal("");
  const reading = useSignal(false);
  const problem = useSignal<Error | null>(null);
  const suggested = range.data?.suggested ?? null;
  const dates = datesOf(range.data?.days ?? [], now.peek());

  const fill = (begins: number, ends: number): void => {
    from.value = wallOf(begins);
    to.value = wallOf(ends);
  };
  /** The fields hold whole minutes, so round the end up; otherwise, the latest positions would be missing. */
  const fillSuggested = (range: { from: string; to: string }): void => {
    const ends = Math.ceil(Date.parse(range.to) / MINUTE_MS) * MINUTE_MS;
    fill(Math.max(Date.parse(range.from), ends - LONGEST_MS), ends);
  };
  useEffect(() => {
    if (suggested) fillSuggested(suggested);
    else if (dates[0]) fill(...morningOf(dates[0]));
  }, [range.data]);
  const chooseDay = (name: string): void => {
    if (name === "suggested" && suggested) return fillSuggested(suggested);
    return fill(...morningOf(name));
  };
  const read = (): void => {
    problem.value = null;
    reading.value = true;
    load(new Date(momentOf(from.value)).toISOString(), new Date(momentOf(to.value)).toISOString(), null)
      .catch((error: Error) => (problem.value = error))
      .finally(() => (reading.value = false));
  };
  const ready = momentOf(from.value) < momentOf(to.value);
  return (
    <form
      class="replay-form"
      onSubmit={(event) => {
        event.preventDefault();
        read();
      }}
    >
      {range.data && (
        <label>
          <span>Day</span>
          <select onChange={(event) => chooseDay(event.currentTarget.value)}>
            {suggested && <option value="suggested">latest</option>}
            {dates.map((day) => (
              <option key={day} value={day}>
                {dayName(startOfDay(day))}, morning
              </option>
            ))}
          </select>
        </label>
      )}
      <label>
        <span>From</span>
        <input type="datetime-local" required value={from.value} onInput={(event) => (from.value = event.currentTarget.value)} />
      </label>
      <label>
        <span>To</span>
        <input type="datetime-local" required value={to.value} onInput={(event) => (to.value = event.currentTarget.value)} />
      </label>
      <button type="submit" class="primary" disabled={!ready || reading.value}>
        {reading.value ? "Reading the archive …" : "Load"}
      </button>
      <button type="button" onClick={onClose}>
        Back to live
      </button>
      {range.problem && <Failed problem={range.problem} what="The archive cannot be listed" again={range.again} />}
      {range.data && range.data.days.length === 0 && <p class="quiet">The archive is still empty.</p>}
      {problem.value && <Failed problem={problem.value} what="The archive could not be read" again={read} />}
    </form>
  );
}

function Player({ played, onClose }: { played: Replay; onClose: () => void }) {
  const playing = useSignal(false);
  const speed = useSignal(300);
  const isOutside = useSignal(false);
  const from = Date.parse(played.from);
  const to = Date.parse(played.to);
  useEffect(() => {
    if (!playing.value) return undefined;
    const timer = setInterval(() => {
      replayAt.value = Math.min(to, replayAt.value + TICK_MS * speed.value);
      if (replayAt.value >= to) playing.value = false;
    }, TICK_MS);
    return () => clearInterval(timer);
  }, [playing.value, speed.value, to]);
  const at = replayAt.value;
  // Update the address at a rate that the browser's history accepts.
  useEffect(() => {
    const timer = setTimeout(() => choose({ from: played.from, to: played.to, at: new Date(at).toISOString() }, true), 400);
    return () => clearTimeout(timer);
  }, [Math.floor(at / 10_000), playing.value, played, param("from")]); // set the address again after a link in a list, which lacks the time range
  const shownTime = `${dayName(at)} ${clockTime(at)}`;
  /** Go to the first time in the replay with this time of day. */
  const goTo = (time: string): void => {
    const wanted = [dateOf(from), dateOf(to)].map((date) => momentOf(`${date}T${time}`)).find((each) => each >= from && each <= to);
    isOutside.value = time !== "" && wanted === undefined;
    if (wanted !== undefined) replayAt.value = wanted;
  };
  return (
    <>
      <button
        type="button"
        class="primary play"
        onClick={() => {
          if (at >= to) replayAt.value = from;
          playing.value = !playing.value;
        }}
      >
        {playing.value ? "Pause" : "Play"}
      </button>
      <label>
        <span class="unseen">Speed</span>
        <select value={speed.value} onChange={(event) => (speed.value = Number(event.currentTarget.value))}>
          {SPEEDS.map((factor) => (
            <option key={factor} value={factor}>
              {factor} ×
            </option>
          ))}
        </select>
      </label>
      <output class="replay-time n">
        <time dateTime={new Date(at).toISOString()} title={utc(at)}>
          {shownTime}
        </time>
      </output>
      <input
        type="range"
        class="slider"
        aria-label="Time"
        aria-valuetext={shownTime}
        min={from}
        max={to}
        step={10_000}
        value={at}
        onInput={(event) => (replayAt.value = Number(event.currentTarget.value))}
      />
      <label class="go-to">
        <span>Go to</span>
        <input type="time" aria-label="Go to the time" onChange={(event) => goTo(event.currentTarget.value)} />
      </label>
      <button type="button" onClick={onClose}>
        Back to live
      </button>
      <p class="quiet replay-about">
        {isOutside.value && <strong role="status">This time is outside the replay. </strong>}
        <Time at={played.from} /> – <Time at={played.to} /> · {plural(played.events, "event")}, {plural(played.trucks.length, "truck")}
        {played.truncated && " · only the first part is shown: choose a shorter time span"}
      </p>
    </>
  );
}
