import { Argument, type Command, type Option } from "commander";

export const shells = ["bash", "zsh", "fish"] as const;

/**
 * Adds `sfc completion`, which prints what a shell needs to complete the commands and flags that `sfc` has when it is called.
 *
 * @param listed what else than a flag's own choices can be offered, by flag
 */
export function addCompletionCommand(sfc: Command, listed: ReadonlyMap<string, readonly string[]>): void {
  sfc
    .command("completion")
    .description("print what bash, zsh or fish needs to complete sfc's commands, flags and values")
    .addArgument(new Argument("<shell>", "which shell").choices(shells))
    .addHelpText("after", completionHelp)
    .action((shell: (typeof shells)[number]) => {
      const tree = commandsOf(sfc, "", listed);
      process.stdout.write(shell === "fish" ? fishScript(tree) : bashScript(tree, shell === "zsh"));
    });
}

const completionHelp = `
Examples:
  source <(sfc completion bash)                                   # in ~/.bashrc
  source <(sfc completion zsh)                                    # in ~/.zshrc
  sfc completion fish > ~/.config/fish/completions/sfc.fish`;

/** One command: its words after `sfc` (" train sae"), what may follow as a subcommand or argument, and its flags. */
interface Entry {
  readonly path: string;
  readonly words: readonly { readonly word: string; readonly says: string }[];
  readonly flags: readonly { readonly flag: string; readonly says: string; readonly values?: readonly string[] }[];
}

function commandsOf(command: Command, path: string, values: ReadonlyMap<string, readonly string[]>): Entry[] {
  const help = command.createHelp();
  const inner = help.visibleCommands(command);
  const choices = command.registeredArguments.flatMap((argument) => argument.argChoices ?? []);
  const own: Entry = {
    path,
    words: [
      ...inner.map((c) => ({ word: c.name(), says: c.description() })),
      ...choices.map((word) => ({ word, says: "" })),
    ],
    flags: help.visibleOptions(command).map((option) => ({
      flag: option.long!,
      says: option.description,
      ...valuesOf(option, values),
    })),
  };
  return [own, ...inner.flatMap((c) => (c.name() === "help" ? [] : commandsOf(c, `${path} ${c.name()}`, values)))];
}

function valuesOf(option: Option, values: ReadonlyMap<string, readonly string[]>): { values?: readonly string[] } {
  // One that takes a value of no list may take a path: the shell offers files.
  if (option.isBoolean()) return {};
  return { values: option.argChoices ?? values.get(option.long!) ?? [] };
}

/** For bash, and for zsh by its emulation of bash's completions. Where no word fits, the shell offers files. */
function bashScript(tree: readonly Entry[], zsh: boolean): string {
  const commands = tree.filter(({ path }) => path !== "").map(({ path }) => `"${path}"`);
  const takers = tree.flatMap(({ path, flags }) =>
    flags.flatMap(({ flag, values }) => (values ? [{ pattern: `"${path} ${flag}"`, list: values.join(" ") }] : [])),
  );
  const valueCases = [...new Set(takers.map(({ list }) => list))].map((list) => {
    const patterns = takers.flatMap((taker) => (taker.list === list ? [taker.pattern] : []));
    return `  ${patterns.join(" | ")}) list="${list}" ;;`;
  });
  const wordCases = tree.map(
    ({ path, words, flags }) =>
      `    "${path}") list="${[...words.map(({ word }) => word), ...flags.map(({ flag }) => flag)].join(" ")}" ;;`,
  );
  return `${zsh ? "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" : ""}_sfc() {
  local current="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" at="" list="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$at \${COMP_WORDS[i]}" in
    ${commands.join(" | ")}) at="$at \${COMP_WORDS[i]}" ;;
    esac
  done
  case "$at $before" in
${valueCases.join("\n")}
  *)
    case "$at" in
${wordCases.join("\n")}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$list" -- "$current"))
}
complete -o bashdefault -o default -F _sfc sfc ./sfc
`;
}

function fishScript(tree: readonly Entry[]): string {
  const quoted = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;
  const lines = tree.flatMap(({ path, words, flags }) => {
    const names = path.trim().split(" ");
    const next = words.map(({ word }) => word).join(" ");
    const on = path === "" ? [] : names.map((name) => `__fish_seen_subcommand_from ${name}`);
    const first = path === "" ? ["__fish_use_subcommand"] : on;
    const notYet = next === "" || path === "" ? [] : [`not __fish_seen_subcommand_from ${next}`];
    const when = (conditions: readonly string[]) => `complete -c sfc -n ${quoted(conditions.join("; and "))}`;
    return [
      ...words.map(({ word, says }) => `${when([...first, ...notYet])} -f -a ${word} -d ${quoted(says)}`),
      ...flags.map(({ flag, says, values }) => {
        const takes = values === undefined ? "" : values.length > 0 ? ` -x -a ${quoted(values.join(" "))}` : " -r";
        return `${when([...first, ...notYet])} -l ${flag.slice(2)}${takes} -d ${quoted(says)}`;
      }),
    ];
  });
  return `${lines.join("\n")}\n`;
}
