import type { Fail } from "./zip.ts";

/** What a pickle can hold here: plain data, and what the allowed functions return. */
export type Pickled =
  | null
  | boolean
  | number
  | string
  | readonly Pickled[]
  | ReadonlyMap<string | number, Pickled>
  | object;

/** The functions and classes that a pickle may name, as "module name", with what calling them gives. A class that is only named gives itself. */
export type Globals = ReadonlyMap<string, (args: readonly Pickled[]) => Pickled>;

/** A global that a pickle named and the list allows. */
export class Global {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

const largestNumber = 8;

/**
 * Reads a pickle (Python's Lib/pickletools.py describes the format) without running anything: only the opcodes with which torch.save writes a
 * state dict are known, and only the named globals. Dicts come as Maps, lists and tuples as arrays.
 *
 * @param persistent gives the object that a persistent id stands for
 * @throws UserError through `fail`, for another opcode, a global that is not on the list, or a damaged pickle
 */
export function readPickle(
  bytes: Uint8Array,
  globals: Globals,
  persistent: (id: Pickled) => Pickled,
  fail: Fail,
): Pickled {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const memo = new Map<number, Pickled>();
  const marks: number[] = [];
  let stack: Pickled[] = [];
  let at = 0;

  const damaged = (expected: string, got: string) => fail("pickle", expected, got);
  const take = (length: number): number => {
    const start = at;
    if (start + length > bytes.length) damaged(`${length} bytes at ${start}`, "the end");
    at += length;
    return start;
  };
  const text = (length: number): string => {
    const start = take(length);
    return new TextDecoder().decode(bytes.subarray(start, start + length));
  };
  const line = (): string => {
    const end = bytes.indexOf(10, at);
    if (end < 0) damaged("a line", "the end");
    const found = text(end - at);
    take(1);
    return found;
  };
  const pop = (): Pickled => {
    if (stack.length <= (marks.at(-1) ?? 0)) damaged("a value on the stack", "none");
    return stack.pop()!;
  };
  const popToMark = (): Pickled[] => {
    const mark = marks.pop();
    if (mark === undefined) return damaged("a mark", "none");
    return stack.splice(mark);
  };
  const popTuple = (length: number): Pickled[] => Array.from({ length }, pop).reverse();
  /** The list or dict that items are put into; it stays on the stack. */
  const target = (): Pickled => {
    const value = pop();
    stack.push(value);
    return value;
  };
  const setItems = (items: readonly Pickled[]) => {
    const dict = target();
    if (!(dict instanceof Map) || items.length % 2 !== 0) return damaged("a dict and its items", "other values");
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== "string" && typeof key !== "number")
        return damaged("a text or number as key", "another value");
      dict.set(key, items[i + 1]!);
    }
  };
  const append = (items: readonly Pickled[]) => {
    const list = target();
    if (!Array.isArray(list)) return damaged("a list", "another value");
    for (const item of items) list.push(item);
  };
  const call = () => {
    const [callee, args] = popTuple(2);
    if (!(callee instanceof Global) || !Array.isArray(args)) return damaged("a function and its arguments", "others");
    stack.push(globals.get(callee.name)!(args));
  };
  const global = () => {
    const name = `${line()} ${line()}`;
    if (!globals.has(name)) {
      const advice = "Such a file could run code when Python loads it, so it is not read. Save the tensors alone.";
      fail("pickle", "tensors, numbers and texts", `${name.replace(" ", ".")}, which is not allowed,`, advice);
    }
    stack.push(new Global(name));
  };
  const wholeNumber = () => {
    const length = bytes[take(1)]!;
    if (length > largestNumber) damaged(`a number of at most ${largestNumber} bytes`, `one of ${length}`);
    const start = take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[start + i]!);
    stack.push(Number(BigInt.asIntN(8 * length, value)));
  };
  const recall = (index: number) => {
    const value = memo.get(index);
    if (value === undefined) damaged(`an object ${index}`, "none of that number");
    else stack.push(value);
  };

  while (true) {
    const opcode = bytes[take(1)]!;
    switch (opcode) {
      case 0x80: // PROTO
        if (bytes[take(1)]! !== 2)
          fail("pickle protocol", "2", `${bytes[at - 1]}`, "Save it with torch.save's default.");
        break;
      case 0x28: // MARK
        marks.push(stack.length);
        break;
      case 0x4e: // NONE
        stack.push(null);
        break;
      case 0x88: // NEWTRUE
      case 0x89: // NEWFALSE
        stack.push(opcode === 0x88);
        break;
      case 0x4b: // BININT1
        stack.push(bytes[take(1)]!);
        break;
      case 0x4d: // BININT2
        stack.push(data.getUint16(take(2), true));
        break;
      case 0x4a: // BININT
        stack.push(data.getInt32(take(4), true));
        break;
      case 0x8a: // LONG1
        wholeNumber();
        break;
      case 0x47: // BINFLOAT
        stack.push(data.getFloat64(take(8), false));
        break;
      case 0x58: // BINUNICODE
        stack.push(text(data.getUint32(take(4), true)));
        break;
      case 0x29: // EMPTY_TUPLE
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        break;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        break;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        stack.push(popTuple(opcode - 0x84));
        break;
      case 0x74: // TUPLE
        stack.push(popToMark());
        break;
      case 0x61: // APPEND
        append([pop()]);
        break;
      case 0x65: // APPENDS
        append(popToMark());
        break;
      case 0x73: // SETITEM
        setItems(popTuple(2));
        break;
      case 0x75: // SETITEMS
        setItems(popToMark());
        break;
      case 0x71: // BINPUT
        memo.set(bytes[take(1)]!, target());
        break;
      case 0x72: // LONG_BINPUT
        memo.set(data.getUint32(take(4), true), target());
        break;
      case 0x68: // BINGET
        recall(bytes[take(1)]!);
        break;
      case 0x6a: // LONG_BINGET
        recall(data.getUint32(take(4), true));
        break;
      case 0x63: // GLOBAL
        global();
        break;
      case 0x52: // REDUCE
        call();
        break;
      case 0x51: // BINPERSID
        stack.push(persistent(pop()));
        break;
      case 0x62: // BUILD: attributes of an OrderedDict (module versions), which do not matter
        pop();
        if (!(target() instanceof Map)) damaged("attributes of a dict", "those of another value");
        break;
      case 0x2e: {
        // STOP
        const result = pop();
        if (stack.length > 0 || marks.length > 0) damaged("one value at the end", "several");
        stack = [];
        return result;
      }
      default:
        fail("pickle", "what torch.save writes for a state dict", `opcode ${opcode}`, "Save the tensors alone.");
    }
  }
}
