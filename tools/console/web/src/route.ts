/** The address bar contains the view and its parameters, so that a link shows the same view to somebody else. */

import { computed, signal } from "@preact/signals";

export const VIEWS = ["map", "places", "visits", "events", "pipeline"] as const;
export type View = (typeof VIEWS)[number];

const address = signal(new URL(location.href));

addEventListener("popstate", () => {
  address.value = new URL(location.href);
});

export const view = computed<View>(() => {
  const [, first] = address.value.pathname.split("/");
  return VIEWS.find((name) => name === first) ?? "map";
});

export const param = (name: string): string => address.value.searchParams.get(name) ?? "";

export type Params = Record<string, string | null>;

export function link(to: View, params: Params = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) if (value) search.set(name, value);
  const text = search.toString();
  return text ? `/${to}?${text}` : `/${to}`;
}

function go(url: URL | string, replace: boolean): void {
  if (replace) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  address.value = new URL(location.href);
}

/** Go to another view, or to the same one with other parameters. */
export const open = (to: View, params: Params = {}): void => go(link(to, params), false);

/** Change some of the parameters of this view; null removes one. */
export function choose(params: Params, replace = false): void {
  const url = new URL(address.value);
  for (const [name, value] of Object.entries(params)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  go(url, replace);
}

/** Follow links between views without loading the page again. The browser handles new tabs, other sites and downloads. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const anchor = (event.target as Element).closest("a");
  if (!anchor || anchor.target || anchor.origin !== location.origin || anchor.pathname.startsWith("/api")) return;
  if (anchor.hash && anchor.pathname === location.pathname) return;
  event.preventDefault();
  go(anchor.href, false);
}
