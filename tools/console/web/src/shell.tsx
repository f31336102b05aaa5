/** The frame of every view: navigation, stage, verdict, connection, theme and banners. */

import { Age, clockTime, now, utc, zone } from "./time_format";
import { connection, down, isAwsGone, lostAt, pipeline, stage } from "./live";
import { link, type View, VIEWS, view } from "./route";
import { Search } from "./search";
import { type Choice, choice } from "./theme";
import { Fenced, Segments } from "./ui";
import { EventsView } from "./views/events";
import { MapView } from "./views/map";
import { PipelineView } from "./views/pipeline";
import { PlacesView } from "./views/places";
import { VisitsView } from "./views/visits";

const TITLES: Record<View, string> = { map: "Map", places: "Places", visits: "Visits", events: "Events", pipeline: "Pipeline" };

const ICONS: Record<View, string> = {
  map: "M3 5.5 8 3.5l4 2 5-2v11l-5 2-4-2-5 2zM8 3.5v11M12 5.5v11",
  pipeline: "M3 10h3M14 10h3M6 6h8v8H6zM9 10h2",
  events: "M4 5h12M4 10h12M4 15h7",
  places: "M10 17s5-5.2 5-9a5 5 0 0 0-10 0c0 3.800 5 9 5 9zM10 9.500a1.500 1.500 0 1 0 0-3 1.500 1.500 0 0 0 0 3z",
  visits: "M3 6h6M7 10h8M5 14h5M17 3v14",
};

function Verdict() {
  const current = pipeline.value;
  const offline = connection.value === "lost";
  const verdict = offline || !current ? "unknown" : current.verdict;
  const words = { healthy: "Healthy", busy: "Busy", stuck: "Stuck", unknown: "Unknown", idle: "Idle" }[verdict];
  return (
    <a class={`verdict verdict-${verdict}`} href={link("pipeline")} title={current?.says ?? ""}>
      <span class="verdict-dot" aria-hidden="true" />
      <span class="unseen">Pipeline: </span>
      {words}
    </a>
  );
}

function Clock() {
  return (
    <time class="clock" dateTime={new Date(now.value).toISOString()} title={`${utc(now.value)} · times are in ${zone.value}`}>
      {clockTime(now.value)}
    </time>
  );
}

const THEMES: readonly (readonly [Choice, string])[] = [
  ["system", "Auto"],
  ["light", "Light"],
  ["dark", "Dark"],
];

function Banners() {
  const lost = lostAt.value;
  return (
    <>
      {lost !== null && (
        <p class="banner banner-bad" role="alert">
          <strong>No connection to the console’s server</strong> since {clockTime(lost)}. The page shows the data from
          that time, and reconnects automatically.
        </p>
      )}
      {lost === null && <Sources />}
    </>
  );
}

/** One banner for all unavailable sources: what it means, and what to do. */
function Sources() {
  const gone = down.value;
  if (gone.length === 0) return null;
  const since = gone.map((source) => source.since).sort()[0] as string;
  const age = (
    <>
      {" "}
      (for <Age at={since} />)
    </>
  );
  if (isAwsGone.value)
    return (
      <p class="banner banner-bad" role="alert">
        <strong>{stage.value?.local ? "The local AWS is not running" : "AWS cannot be reached"}</strong>
        {age}: {stage.value?.local ? <>run <code>make up</code>.</> : "check the network of this machine."} The
        page shows older data.
      </p>
    );
  if (gone.some((source) => source.cause === "credentials"))
    return (
      <p class="banner" role="alert">
        <strong>The AWS credentials of this console are not valid</strong>
        {age}: sign in again; the console then continues automatically. The page shows older data.
      </p>
    );
  return (
    <p class="banner" role="alert">
      <strong>{gone.map((source) => source.what.split(":")[0]).filter((name, i, all) => all.indexOf(name) === i).join(", ")}</strong>{" "}
      cannot be read{age}. Everything else still works. <a href={link("pipeline")}>Details</a>
    </p>
  );
}

function Current() {
  switch (view.value) {
    case "places":
      return <PlacesView />;
    case "pipeline":
      return <PipelineView />;
    case "events":
      return <EventsView />;
    case "visits":
      return <VisitsView />;
    default:
      return <MapView />;
  }
}

export function Shell() {
  const shown = view.value;
  document.title = `${TITLES[shown]} · Milkrun`;
  return (
    <>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <a class="wordmark" href={link("map")}>
          Milkrun
        </a>
        <span class="stage" title={stage.value?.endpoint}>
          {stage.value?.stage ?? "…"}
        </span>
        <nav aria-label="Views">
          {VIEWS.map((name) => (
            <a key={name} href={link(name)} aria-current={name === shown ? "page" : undefined}>
              <svg viewBox="0 0 20 20" aria-hidden="true">
                <path d={ICONS[name]} />
              </svg>
              {TITLES[name]}
            </a>
          ))}
        </nav>
        <span class="spacer" />
        <Search />
        <Verdict />
        <span class={`link link-${connection.value}`} role="status">
          {{ live: "live", connecting: "connecting", lost: "offline" }[connection.value]}
        </span>
        <Clock />
        <Segments label="Theme" options={THEMES} value={choice.value} onChange={(value) => (choice.value = value)} />
      </header>
      <Banners />
      <main id="main" class={`view-${shown}`} tabIndex={-1}>
        <Fenced key={shown}>
          <Current />
        </Fenced>
      </main>
    </>
  );
}
