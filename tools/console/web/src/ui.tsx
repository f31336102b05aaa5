/** Components that several views use. */

import { Component, type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { Problem } from "./api";
import type { StageState } from "./contract";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const number = (value: number | null | undefined): string =>
  value === null || value === undefined ? "–" : whole.format(value);
export const decimal = (value: number | null | undefined): string =>
  value === null || value === undefined ? "–" : tenth.format(value);

export const plural = (n: number, one: string, many = `${one}s`): string => `${number(n)} ${n === 1 ? one : many}`;

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <div class="quiet">{children}</div>}
    </div>
  );
}

export function Failed({ problem, what, again }: { problem: Error; what: string; again?: () => void }) {
  const source = problem instanceof Problem && problem.source ? ` (${problem.source})` : "";
  return (
    <div class="failed" role="alert">
      <p>
        <strong>{what}</strong>
        {source}: {problem.message}
      </p>
      {again && (
        <button type="button" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

/** Shows an error in place of a view that fails, so that the other views still work. */
export class Fenced extends Component<{ children: ComponentChildren }, { problem: Error | null }> {
  override state = { problem: null as Error | null };

  override componentDidCatch(problem: Error): void {
    console.error(problem);
    this.setState({ problem });
  }

  override render() {
    const { problem } = this.state;
    if (!problem) return this.props.children;
    return <Failed problem={problem} what="This view failed" again={() => this.setState({ problem: null })} />;
  }
}

export function Loading({ what }: { what: string }) {
  return (
    <p class="loading quiet" role="status">
      {what}
    </p>
  );
}

interface SegmentsProps<T extends string> {
  label: string;
  options: readonly (readonly [T, string])[];
  value: T;
  onChange: (value: T) => void;
}

/** A choice of one of a few values. Native radio buttons support the arrow keys. */
export function Segments<T extends string>({ label, options, value, onChange }: SegmentsProps<T>) {
  return (
    <fieldset class="segments">
      <legend class="unseen">{label}</legend>
      {options.map(([name, text]) => (
        <label key={name}>
          <input type="radio" name={label} value={name} checked={value === name} onChange={() => onChange(name)} />
          <span>{text}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState<"" | "copied" | "failed">("");
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(""), 1600);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = (): void => {
    navigator.clipboard.writeText(text).then(
      () => setDone("copied"),
      () => setDone("failed"),
    );
  };
  return (
    <button type="button" class="copy" onClick={copy} title={text}>
      {label}
      <span class="copied" role="status">
        {done === "copied" ? " ✓" : done === "failed" ? " not allowed" : ""}
      </span>
    </button>
  );
}

const MARKS: Record<StageState, string> = { ok: "", idle: "", waiting: "…", stuck: "!", unknown: "?" };

export function Mark({ state }: { state: StageState }) {
  return (
    <span class={`mark mark-${state}`} aria-hidden="true">
      {MARKS[state]}
    </span>
  );
}

/** Sixty minutes as bars; the current minute is paler. */
export function Sparkline({ values, label }: { values: number[]; label: string }) {
  const highest = Math.max(1, ...values);
  const bars = values
    .map((value, i) => (value > 0 ? `M${i * 4} 24v${-Math.max(1.5, (value / highest) * 22).toFixed(1)}h3V24z` : ""))
    .slice(0, -1)
    .join("");
  const last = values.at(-1) ?? 0;
  const x = (values.length - 1) * 4;
  return (
    <svg class="sparkline" viewBox={`0 0 ${values.length * 4} 25`} preserveAspectRatio="none" role="img" aria-label={label}>
      <path class="spark-base" d={`M0 24.5h${values.length * 4}`} />
      <path class="spark-bars" d={bars} />
      {last > 0 && <path class="spark-now" d={`M${x} 24v${-Math.max(1.5, (last / highest) * 22)}h3V24z`} />}
    </svg>
  );
}

/**
 * Return the answer to a request. The old data stays until the new arrives.
 *
 * A change of `what` abandons the request and sends another one. A change of `news` repeats the request, but only after
 * the answer to the current one: if news arrived faster than answers, abandoned requests would never show any data.
 */
export function useAsked<T>(
  asking: ((signal: AbortSignal) => Promise<T>) | null,
  what: readonly unknown[],
  news: readonly unknown[] = [],
): { data: T | null; problem: Error | null; again: () => void; busy: boolean } {
  const [state, setState] = useState<{ data: T | null; problem: Error | null; busy: boolean }>({
    data: null,
    problem: null,
    busy: asking !== null,
  });
  const [tries, setTries] = useState(0);
  const latest = useRef(asking);
  latest.current = asking;
  const current = useRef<{ abort: AbortController; isOutdated: boolean } | null>(null);
  const asked = useRef<readonly unknown[] | null>(null);
  const send = (): void => {
    current.current?.abort.abort();
    current.current = null;
    if (!latest.current) {
      setState({ data: null, problem: null, busy: false });
      return;
    }
    const mine = { abort: new AbortController(), isOutdated: false };
    current.current = mine;
    setState((old) => ({ ...old, busy: true }));
    const answered = (answer: { data: T } | { problem: Error }): void => {
      if (mine.abort.signal.aborted) return;
      current.current = null;
      setState((old) => ({ data: old.data, problem: null, ...answer, busy: false }));
      if (mine.isOutdated) send();
    };
    latest.current(mine.abort.signal).then(
      (data) => answered({ data }),
      (problem: Error) => answered({ problem }),
    );
  };
  useEffect(() => {
    const now = [...what, tries];
    const isOther = now.some((each, i) => each !== asked.current?.[i]);
    asked.current = now;
    if (current.current && !isOther) current.current.isOutdated = true;
    else send();
  }, [...what, tries, ...news]);
  useEffect(() => () => current.current?.abort.abort(), []);
  return { ...state, again: () => setTries((n) => n + 1) };
}
