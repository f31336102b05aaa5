/** The search box for trucks, places, events and objects. Slash or Ctrl-K focuses it; arrow keys and Enter choose. */

import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";

import { ask } from "./api";
import type { EventDetail, Found } from "./contract";
import { open, type Params, type View } from "./route";
import { nameOf } from "./views/events";

interface Hit {
  what: string;
  name: string;
  to: [View, Params];
}

const PAUSE_MS = 150;

function hitsOf(found: Found): Hit[] {
  return [
    ...found.trucks.map((id): Hit => ({ what: "truck", name: id, to: ["map", { truck: id }] })),
    ...found.places.map((place): Hit => ({ what: place.tag, name: place.name, to: ["map", { fence: place.fence_id }] })),
    ...found.events.map(
      (event): Hit => ({ what: event.kind === "bad" ? "rejected event" : "event", name: event.event_id, to: ["events", nameOf(event)] }),
    ),
    ...found.objects.map((key): Hit => ({ what: "object", name: key, to: ["events", { key, line: "1" }] })),
  ];
}

export function Search() {
  const text = useSignal("");
  const answer = useSignal<{ to: string; found: Found } | null>(null);
  const at = useSignal(0);
  const state = useSignal<"" | "tracing" | string>("");
  const box = useRef<HTMLInputElement>(null);
  const asking = useRef<AbortController | null>(null);
  /** Whether Enter was pressed before the answer to the typed text arrived; it takes effect on arrival. */
  const entered = useRef(false);

  // Listen before the first paint, so that a slash typed immediately is not lost.
  useLayoutEffect(() => {
    const focus = (event: KeyboardEvent): void => {
      const typing = (event.target as Element).closest("input, select, textarea");
      if ((event.key === "/" && !typing) || (event.key === "k" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        box.current?.focus();
        box.current?.select();
      }
    };
    document.addEventListener("keydown", focus);
    return () => document.removeEventListener("keydown", focus);
  }, []);

  const close = (): void => {
    asking.current?.abort();
    entered.current = false;
    answer.value = null;
    state.value = "";
  };
  const typed = (value: string): void => {
    text.value = value;
    asking.current?.abort();
    entered.current = false;
    state.value = "";
    if (!value.trim()) return close();
    const abort = (asking.current = new AbortController());
    setTimeout(() => {
      if (abort.signal.aborted) return;
      ask<Found>("/api/search", { q: value }, { signal: abort.signal }).then(
        (found) => {
          answer.value = { to: value, found };
          at.value = 0;
          if (entered.current) enter();
        },
        (problem: Error) => !abort.signal.aborted && (state.value = problem.message),
      );
    }, PAUSE_MS);
  };
  const found = answer.value?.found ?? null;
  const hits = found ? hitsOf(found) : [];
  const go = (hit: Hit): void => {
    close();
    text.value = "";
    open(...hit.to);
    document.getElementById("main")?.focus();
  };
  /** Search the warehouse and the archive, which go back further than the console's memory. */
  const trace = (): void => {
    const what = text.value.trim();
    const abort = (asking.current = new AbortController());
    state.value = "tracing";
    const isKey = /^(events|rejected)\//.test(what); // an event id may contain a slash, too
    ask<EventDetail>("/api/event", isKey ? { key: what, line: 1 } : { event_id: what }, { signal: abort.signal }).then(
      () => go({ what: "", name: what, to: ["events", isKey ? { key: what, line: "1" } : { event: what }] }),
      (problem: Error) =>
        !abort.signal.aborted &&
        (state.value = `${problem.message} Searched: ${answer.value?.found.searched ?? "memory"}, the warehouse, and the archive of the last 48 hours.`),
    );
  };
  /** Go to the marked match, otherwise search the stores. Matches of an earlier text do not count. */
  function enter(): void {
    const latest = answer.value;
    entered.current = latest?.to !== text.value;
    if (!latest || entered.current) return;
    const hit = hitsOf(latest.found)[at.value];
    if (hit) go(hit);
    else if (latest.found.trace) trace();
  }
  const keyed = (event: KeyboardEvent): void => {
    if (event.key === "Escape") {
      close();
      box.current?.blur();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (hits.length > 0) at.value = (at.value + step + hits.length) % hits.length;
    } else if (event.key === "Enter") {
      event.preventDefault();
      enter();
    }
  };
  const shown = found !== null || state.value !== "";
  return (
    <search
      class="find-all"
      onFocusOut={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) close();
      }}
    >
      <input
        ref={box}
        type="search"
        role="combobox"
        list={undefined}
        aria-label="Search trucks, places, events and objects"
        aria-expanded={shown}
        aria-controls="found"
        aria-autocomplete="list"
        aria-activedescendant={hits.length > 0 ? `hit-${at.value}` : undefined}
        placeholder="Search  /"
        autocomplete="off"
        spellcheck={false}
        value={text.value}
        onInput={(event) => typed(event.currentTarget.value)}
        onKeyDown={keyed}
      />
      {shown && (
        <div class="found">
          <ul id="found" role="listbox" aria-label="Found">
            {hits.map((hit, i) => (
              <li
                key={i}
                id={`hit-${i}`}
                role="option"
                aria-selected={i === at.value}
                onMouseDown={(event) => event.preventDefault()}
                onClick={() => go(hit)}
              >
                <span class="clip">{hit.name}</span> <span class="quiet">{hit.what}</span>
              </li>
            ))}
          </ul>
          {hits.length === 0 && state.value === "" && (
            <p class="quiet">
              No match. Searched: {found?.searched}.{" "}
              {found?.trace && (
                <button type="button" onClick={trace}>
                  Search the warehouse and the archive (Enter)
                </button>
              )}
            </p>
          )}
          {state.value !== "" && (
            <p class="quiet" role="status">
              {state.value === "tracing" ? "Searching the warehouse and the archive …" : state.value}
            </p>
          )}
        </div>
      )}
    </search>
  );
}
