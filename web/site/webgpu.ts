/** What of WebGPU is used here. */
interface Gpu {
  requestAdapter(): Promise<{ readonly info?: { readonly vendor: string; readonly architecture: string } } | null>;
}

/** What WebGPU would compute on: its maker and kind, as far as the browser tells; null where there is none. */
export async function findAdapter(): Promise<string | null> {
  const { gpu } = navigator as { readonly gpu?: Gpu };
  const adapter = await gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  const { vendor = "", architecture = "" } = adapter.info ?? {};
  return `${vendor} ${architecture}`.trim() || "unnamed";
}
