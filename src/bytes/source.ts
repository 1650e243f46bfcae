/** Bytes that can be read from anywhere in them: a file, a part of a URL, a Blob. */
export interface ByteSource {
  /** What to call it in messages: a path or an address. */
  readonly name: string;
  /** Length in bytes. */
  readonly size: number;
  /** Reads come over a network, so that nothing should be read that is not asked for. */
  readonly overNetwork?: boolean;
  /**
   * Bytes [offset, offset + length).
   *
   * @param into memory of that length that a source may fill instead of taking new memory; what counts is what is returned
   * @throws UserError if the range reaches beyond the end
   */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /** Of a file whose SHA-256 may be known from before, as long as the system says that nobody has written to it. */
  readonly known?:
    | {
        /** Undefined if it is not known. */
        find(): Promise<string | undefined>;
        /** Keeps the hash that was taken since `find` was asked, unless the file has changed meanwhile. */
        keep(hash: string): Promise<void>;
      }
    | undefined;
  /** Nothing can be read after it. */
  close(): Promise<void>;
}
