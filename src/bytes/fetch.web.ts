/** A page's own `fetch`: proxies are the browser's matter. */
export const fetchAnywhere: typeof fetch = (input, init) => fetch(input, init);

/** What to check where an address is not reached. */
export function proxyAdvice(_address: string): string {
  return "the network";
}
