import { serveProcess } from "../jobs/serve.ts";
import { type MethodRequest, measureMethod, type Work } from "./compare-measure.ts";

/** Entry of the process in which one method of a comparison runs, alone with its model. What it finds goes into files; it tells how far it is. */
serveProcess<MethodRequest, null, Work>(async (request, { reporter, tell }) => {
  await measureMethod(request, reporter, tell);
  return null;
});
