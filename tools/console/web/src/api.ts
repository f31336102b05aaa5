/** Requests to the console's server. An error (problem+json) is thrown as a Problem. */

export class Problem extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly source: string | null = null,
  ) {
    super(message);
  }
}

type Query = Record<string, string | number | null | undefined>;

export async function ask<T>(path: string, query: Query = {}, options: RequestInit = {}): Promise<T> {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  let response: Response;
  try {
    response = await fetch(given.length > 0 ? `${path}?${search}` : path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem("The console's server does not answer.", 0);
  }
  const answer: unknown = await response.json().catch(() => null);
  if (!response.ok) {
    const said = (answer ?? {}) as { detail?: string; title?: string; source?: string };
    throw new Problem(said.detail ?? said.title ?? `HTTP ${response.status}`, response.status, said.source ?? null);
  }
  return answer as T;
}

export const post = <T>(path: string): Promise<T> => ask<T>(path, {}, { method: "POST" });
