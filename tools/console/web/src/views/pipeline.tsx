/** The state of every stage of the pipeline, with one verdict, such as “healthy” or where the pipeline is stuck. */

import { useSignal } from "@preact/signals";

import { post } from "../api";
import { Age, span, Time } from "../time_format";
import type { Difference, Pipeline, PipelineStage, Reconcile, Source } from "../contract";
import { command, pipeline, sources } from "../live";
import { link } from "../route";
import { Copy, decimal, Empty, Loading, Mark, number, plural, Sparkline } from "../ui";

const VERDICTS = { healthy: "Healthy", busy: "Busy", stuck: "Stuck", unknown: "Unknown", idle: "Idle" };

/** Stages beside the normal path, which events reach only after a rejection or a failure. */
const BRANCHES = new Set(["rejected", "redriven", "set_aside"]);

const STATES = { ok: "ok", idle: "idle", waiting: "waiting", stuck: "stuck", unknown: "unknown" };

function StageRow({ stage }: { stage: PipelineStage }) {
  const branch = BRANCHES.has(stage.name);
  const busiest = Math.max(0, ...stage.per_minute);
  return (
    <tr class={`stage-row state-${stage.state}${branch ? " branch" : ""}`} data-stage={stage.name}>
      <th scope="row">
        <Mark state={stage.state} />
        <span class="stage-title">{stage.title}</span>
        <span class="stage-state">{STATES[stage.state]}</span>
        {stage.note && <span class="stage-note">{stage.note}</span>}
      </th>
      <td class="n n-main">{number(stage.count)}</td>
      <td class="n">{decimal(stage.rate)}</td>
      <td class="n">{stage.lag_s === null ? "–" : span(stage.lag_s)}</td>
      <td class="spark">
        <Sparkline
          values={stage.per_minute}
          label={`${stage.title}, last hour: ${number(stage.count)}, at most ${number(busiest)} per minute`}
        />
      </td>
      <td class="n wide">{busiest > 0 ? number(busiest) : "–"}</td>
      <td class="n wide">{number(stage.total)}</td>
      <td class="wide">
        <Time at={stage.last_at} />
      </td>
    </tr>
  );
}

const sameRow = (label: string, value: string | number) => (
  <div key={label}>
    <dt>{label}</dt>
    <dd>{typeof value === "number" ? number(value) : value}</dd>
  </div>
);

function ReconcileCard({ reconcile }: { reconcile: Reconcile }) {
  const refused = useSignal("");
  const run = (): void => {
    refused.value = "";
    post("/api/reconcile").catch((problem: Error) => (refused.value = problem.message));
  };
  const running = reconcile.state === "running";
  const said = running
    ? "Comparing …"
    : reconcile.state === "never"
      ? "Not compared yet"
      : reconcile.state === "failed"
        ? "Could not compare"
        : reconcile.equal
          ? "Nothing is missing"
          : `${plural(reconcile.differences.length + reconcile.more, "difference")}`;
  const mood = reconcile.state === "done" ? (reconcile.equal ? "good" : "bad") : reconcile.state === "failed" ? "bad" : "";
  return (
    <section class="card" aria-labelledby="reconcile">
      <div class="card-head">
        <h2 id="reconcile">Reconcile</h2>
        <button type="button" onClick={run} disabled={running}>
          {running ? "Running …" : "Run now"}
        </button>
      </div>
      <p class={`said ${mood}`} role="status">
        {said}
      </p>
      <p class="quiet">Compares the log, S3 and RAW object by object: accepted = archived = loaded.</p>
      {refused.value && <p class="bad">{refused.value}</p>}
      {reconcile.problem && <p class="bad">{reconcile.problem}</p>}
      {reconcile.at && (
        <dl class="facts">
          <div>
            <dt>Period</dt>
            <dd>
              <Time at={reconcile.from} /> – <Time at={reconcile.to} />
            </dd>
          </div>
          <div>
            <dt>Compared</dt>
            <dd>
              <Age at={reconcile.at} /> ago{reconcile.seconds !== null && `, took ${span(reconcile.seconds)}`}
            </dd>
          </div>
          {reconcile.geofence_events &&
            sameRow(
              "Geofence events consumed",
              `${number(reconcile.geofence_events.consumed)} of ${number(reconcile.geofence_events.archived)}`,
            )}
          {sameRow("Objects still being loaded, not compared", reconcile.in_flight)}
        </dl>
      )}
      {reconcile.differences.length > 0 && <Differences reconcile={reconcile} />}
    </section>
  );
}

/** Differences that `milkrun reconcile --repair` repairs; the other differences must be investigated. */
const REPAIRABLE = new Set(["not_loaded", "rows_differ", "not_consumed"]);

function Differences({ reconcile }: { reconcile: Reconcile }) {
  const groups = new Map<string, Difference[]>();
  const repair = command("milkrun reconcile --repair");
  for (const each of reconcile.differences) groups.set(each.kind, [...(groups.get(each.kind) ?? []), each]);
  return (
    <ul class="differences">
      {[...groups].map(([kind, some]) => (
        <li key={kind}>
          <strong>{plural(some.length, "object")}</strong>: {some[0]?.meaning}.
          <p>
            {REPAIRABLE.has(kind) ? (
              <>
                Repair: <code>{repair}</code> <Copy text={repair} label="Copy the command" />
              </>
            ) : (
              <>
                Trace one: <code>{command("milkrun trace KEY")}</code>
              </>
            )}
          </p>
          <details>
            <summary>Show the objects</summary>
            {some.slice(0, 20).map((difference) => (
              <p key={`${difference.key}${difference.line}`}>
                <code class="wrap">{difference.key}</code>
                {difference.lines !== null && (
                  <span>
                    {" "}
                    {plural(difference.lines, "line")}, {plural(difference.rows ?? 0, "row")}
                  </span>
                )}{" "}
                <Copy text={difference.key} label="Copy key" />
              </p>
            ))}
            {some.length > 20 && <p class="quiet">{number(some.length - 20)} more.</p>}
          </details>
        </li>
      ))}
      {reconcile.more > 0 && <li class="quiet">{plural(reconcile.more, "more difference")} not listed.</li>}
    </ul>
  );
}

function WaitingCard({ waiting }: { waiting: Pipeline["waiting"] }) {
  return (
    <section class="card" aria-labelledby="waiting">
      <h2 id="waiting">Waiting</h2>
      <dl class="facts">
        <div>
          <dt>Redrive queue</dt>
          <dd>{number(waiting.redrive_queue)}</dd>
        </div>
        <div class={waiting.dead_letters ? "bad" : ""}>
          <dt>Dead letters</dt>
          <dd>{number(waiting.dead_letters)}</dd>
        </div>
        {Object.entries(waiting.pipes ?? {}).map(([name, pipe]) => (
          <div key={name} class={pipe.state === "RUNNING" ? "" : "bad"}>
            <dt>{name}</dt>
            <dd>
              {pipe.state.toLowerCase()}, {number(pipe.pending_files)} files
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const between = (low: number | null, high: number | null, unit: (n: number) => string): string =>
  low === null ? "–" : `${unit(low)} · ${high === null ? "–" : unit(high)}`;
const ms = (n: number): string => `${Math.round(n)} ms`;

function AnswersCard({ latency }: { latency: Pipeline["latency"] }) {
  const answers = Object.entries(latency.answered);
  const codes = Object.entries(latency.rejected_by_code).sort(([, a], [, b]) => b - a);
  return (
    <section class="card" aria-labelledby="answers">
      <h2 id="answers">Responses</h2>
      <dl class="facts">
        {answers.map(([status, n]) => sameRow(`Status ${status}`, n))}
        {sameRow("Archive, p50 · p99", between(latency.store_ms_p50, latency.store_ms_p99, ms))}
        {sameRow("Publish, p50 · p99", between(latency.publish_ms_p50, latency.publish_ms_p99, ms))}
        {sameRow("Lateness, p50 · p99", between(latency.lateness_s_p50, latency.lateness_s_p99, span))}
      </dl>
      {codes.length > 0 && (
        <>
          <h3>Reasons for rejection</h3>
          <dl class="facts">
            {codes.map(([code, n]) => (
              <div key={code}>
                <dt>
                  <a href={link("events", { kind: "bad", code })}>{code}</a>
                </dt>
                <dd>{number(n)}</dd>
              </div>
            ))}
          </dl>
        </>
      )}
    </section>
  );
}

const SOURCE_STATES: Record<Source["state"], string> = {
  starting: "starting",
  ok: "ok",
  down: "down",
  off: "off",
  idle: "paused",
};

const CAUSES: Record<NonNullable<Source["cause"]>, string> = {
  unreachable: "no connection",
  credentials: "the credentials are not valid",
  other: "it answered with an error",
};

function SourcesCard() {
  return (
    <section class="card" aria-labelledby="sources">
      <h2 id="sources">Sources</h2>
      <ul class="sources">
        {sources.value.map((source) => (
          <li key={source.name} class={source.state === "down" ? "bad" : ""}>
            <span>{source.what}</span>
            <span class="source-state">{SOURCE_STATES[source.state]}</span>
            {source.reason && source.state !== "ok" && (
              <details class="quiet source-reason">
                <summary>
                  {source.cause ? CAUSES[source.cause] : source.state} since <Time at={source.since} />
                </summary>
                {source.reason}
              </details>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** The original error message, for operators; collapsed by default. */
function StuckDetail({ pipeline: { stages, stuck_at } }: { pipeline: Pipeline }) {
  const detail = stages.find((stage) => stage.name === stuck_at)?.detail;
  if (!detail) return null;
  return (
    <details>
      <summary>Details</summary>
      <code class="wrap">{detail}</code>
    </details>
  );
}

export function PipelineView() {
  const current = pipeline.value;
  if (!current) return <Loading what="Waiting for the first figures …" />;
  return (
    <div class="page">
      <section class={`headline headline-${current.verdict}`} aria-label="Verdict">
        <h1>{VERDICTS[current.verdict]}</h1>
        <p>{current.says}</p>
        <StuckDetail pipeline={current} />
      </section>
      <div class="columns">
        <section class="card stages" aria-labelledby="stages">
          <div class="card-head">
            <h2 id="stages">Stages</h2>
            <span class="quiet">
              the last {current.window.minutes} minutes, since <Time at={current.window.from} />
            </span>
          </div>
          {current.stages.length === 0 ? (
            <Empty title="No stage is known yet." />
          ) : (
            <table>
              <thead>
                <tr>
                  <th scope="col">Stage</th>
                  <th scope="col" class="n">
                    Last hour
                  </th>
                  <th scope="col" class="n">
                    Per second
                  </th>
                  <th scope="col" class="n">
                    Lag
                  </th>
                  <th scope="col">Per minute</th>
                  <th scope="col" class="n wide">
                    Peak
                  </th>
                  <th scope="col" class="n wide">
                    Total
                  </th>
                  <th scope="col" class="wide">
                    Last
                  </th>
                </tr>
              </thead>
              <tbody>
                {current.stages.map((stage) => (
                  <StageRow key={stage.name} stage={stage} />
                ))}
              </tbody>
            </table>
          )}
        </section>
        <div class="aside">
          <ReconcileCard reconcile={current.reconcile} />
          <WaitingCard waiting={current.waiting} />
          <AnswersCard latency={current.latency} />
          <SourcesCard />
        </div>
      </div>
    </div>
  );
}
