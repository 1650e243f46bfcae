import { type Command, InvalidArgumentError } from "commander";
import { messageOf, UsageError } from "../errors.ts";
import { folded } from "./flags.ts";
import { print, printError } from "./terminal.ts";

const help = `
The page lists runs and comparisons, shows reports, rows of effects and two runs side by side. Under Live it has effects, the next token, changed
features and the circuit of pairs that are typed, on the embedded model and on those of the folder's runs; under Work it starts runs.

Only this machine can reach the page, and only with the address that is printed: it carries a token. Ctrl-C ends it.

Examples:
  sfc serve
  sfc serve outputs/quick_test --port 0
  sfc serve --model_name ./my-llama --sae_source ./my-saes`;

interface Flags {
  readonly port?: number;
  readonly model_name?: string;
  readonly sae_source?: string;
}

/** Adds `sfc serve`. */
export function addServeCommand(sfc: Command): void {
  sfc
    .command("serve")
    .description("show the runs and comparisons of a folder in the browser")
    .argument("[folder]", "a folder of runs, or a run's own (default: outputs)")
    .option("--model_name <name>", "a model for live work that no run of the folder has, as sfc run takes it")
    .option("--sae_source <source>", "its SAEs (default: the model's own)")
    .option("--port <n>", "port on 127.0.0.1; 0 for any that is free (default: 7327)", portNumber)
    .addHelpText("after", folded(help))
    .action(async (folder: string | undefined, { port, model_name, sae_source }: Flags) => {
      const { givenModel, serve, usualPort } = await import("../serve/serve.ts");
      const onFault = (error: unknown) => printError((error instanceof Error && error.stack) || messageOf(error));
      if (sae_source !== undefined && model_name === undefined) {
        throw new UsageError("--sae_source: expected --model_name with it, got none. Name the model too.");
      }
      const given = model_name === undefined ? null : givenModel(model_name, sae_source ?? null);
      const server = await serve({ folder: folder ?? null, port: port ?? usualPort, given, onFault });
      print(`Open ${server.url}`);
      await new Promise<void>((resolve) => {
        for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
      });
      // Whatever does not end by itself within the second ends with the process.
      setTimeout(() => process.exit(0), 700).unref();
      await server.close();
    });
}

function portNumber(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError("Expected a port from 0 to 65535.");
}
