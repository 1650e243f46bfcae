import { useEffect, useState } from "preact/hooks";
import type { EndpointName, Problem, RequestOf, ResponseOf } from "../../src/serve/api.ts";
import type { Asked } from "../live/question.ts";

/**
 * Asks the server.
 *
 * @throws Error with the server's one line if it refuses or fails
 */
export async function ask<N extends EndpointName>(
  name: N,
  request: RequestOf<N>,
  signal?: AbortSignal,
): Promise<ResponseOf<N>> {
  const [method, path] = name.split(" ") as [string, string];
  const query = method === "GET" ? parametersOf(request) : "";
  const response = await fetch(`/api/${path}${query}`, {
    method,
    ...(signal && { signal }),
    ...(method === "POST" && { headers: { "content-type": "application/json" }, body: JSON.stringify(request) }),
  });
  if (response.ok) return (await response.json()) as ResponseOf<N>;
  const problem = (await response.json().catch(() => null)) as Problem | null;
  throw new Error(problem?.error ?? `The server answered with ${response.status}.`);
}

function parametersOf(request: object): string {
  const given = Object.entries(request).filter(([, value]) => value !== undefined && value !== null);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return given.length === 0 ? "" : `?${query}`;
}

/** Asks whenever the request changes; null asks nothing. */
export function useAnswer<N extends EndpointName>(name: N, request: RequestOf<N> | null): Asked<ResponseOf<N>> {
  const [asked, setAsked] = useState<Asked<ResponseOf<N>>>({ answer: null, error: null, busy: request !== null });
  const key = request === null ? null : JSON.stringify(request);
  useEffect(() => {
    if (key === null) return;
    const stop = new AbortController();
    setAsked(({ answer }) => ({ answer, error: null, busy: true }));
    ask(name, JSON.parse(key) as RequestOf<N>, stop.signal).then(
      (answer) => setAsked({ answer, error: null, busy: false }),
      (error: Error) => {
        if (!stop.signal.aborted) setAsked({ answer: null, error: error.message, busy: false });
      },
    );
    return () => stop.abort();
  }, [name, key]);
  return asked;
}
