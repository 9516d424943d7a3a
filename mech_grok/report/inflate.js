"use strict";
// Inflates what zlib has deflated (RFC 1950 and 1951). A browser's own DecompressionStream answers only later, and
// a page that is printed as it opens has no later.

const CODE_LENGTH_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LENGTHS = ranged(29, 3, (i) => (i < 8 || i === 28 ? 0 : (i >> 2) - 1));
LENGTHS[28].base = 258; // not 259: its code has no extra bits
const DISTANCES = ranged(30, 1, (i) => (i < 4 ? 0 : (i >> 1) - 1));

/** What each of `n` codes begins at, and how many bits follow it that are added. */
function ranged(n, base, extraOf) {
  return Array.from({ length: n }, (_, i) => {
    const range = { base, extra: extraOf(i) };
    base += 1 << range.extra;
    return range;
  });
}

/** A canonical Huffman code as a table: the next bits of the input -> 16 symbol + length of its code. */
function huffman(lengths) {
  const bits = Math.max(...lengths);
  const entries = new Uint16Array(1 << bits);
  for (let length = 1, code = 0; length <= bits; length++, code <<= 1) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      let first = 0; // the code's bits come in the order of the most significant one first
      for (let bit = 0; bit < length; bit++) first |= ((code >> bit) & 1) << (length - 1 - bit);
      for (let i = first; i < entries.length; i += 1 << length) entries[i] = (symbol << 4) | length;
      code++;
    }
  }
  return { entries, bits };
}

/** Reads an input bit by bit, the least significant bit of a byte first. */
class Bits {
  constructor(input, at) { Object.assign(this, { input, at, held: 0, count: 0 }); }

  take(n) {
    this.hold(n);
    const value = this.held & ((1 << n) - 1);
    this.drop(n);
    return value;
  }

  symbol({ entries, bits }) {
    this.hold(bits);
    const entry = entries[this.held & ((1 << bits) - 1)];
    this.drop(entry & 15);
    return entry >> 4;
  }

  /** Where the next whole byte is. */
  align() {
    this.at -= this.count >> 3;
    this.held = this.count = 0;
    return this.at;
  }

  hold(n) { for (; this.count < n; this.count += 8) this.held |= this.input[this.at++] << this.count; }

  drop(n) { this.held >>>= n; this.count -= n; }
}

const FIXED = [
  huffman(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))),
  huffman(new Array(30).fill(5)),
];

/** The codes of a block that brings its own. */
function ownCodes(bits) {
  const [literals, distances, n] = [bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4];
  const inOrder = new Array(19).fill(0);
  for (let i = 0; i < n; i++) inOrder[CODE_LENGTH_ORDER[i]] = bits.take(3);
  const code = huffman(inOrder);
  const lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = bits.symbol(code);
    if (symbol < 16) lengths.push(symbol);
    else if (symbol === 16) lengths.push(...new Array(3 + bits.take(2)).fill(lengths.at(-1)));
    else lengths.push(...new Array(symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7)).fill(0));
  }
  return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
}

/** The `size` bytes that an input of bytes was deflated from. */
function inflate(input, size) {
  const [bits, output] = [new Bits(input, 2), new Uint8Array(size)];
  let [last, written] = [0, 0];
  while (!last) {
    last = bits.take(1);
    const kind = bits.take(2);
    if (kind) {
      written = inflateBlock(bits, kind === 1 ? FIXED : ownCodes(bits), output, written);
      continue;
    }
    const from = bits.align() + 4;
    const length = input[from - 4] | (input[from - 3] << 8);
    output.set(input.subarray(from, from + length), written);
    bits.at = from + length;
    written += length;
  }
  return output;
}

function inflateBlock(bits, [literals, distances], output, written) {
  for (;;) {
    const symbol = bits.symbol(literals);
    if (symbol < 256) output[written++] = symbol;
    else if (symbol === 256) return written;
    else {
      const { base, extra } = LENGTHS[symbol - 257];
      const end = written + base + bits.take(extra);
      const back = DISTANCES[bits.symbol(distances)];
      const distance = back.base + bits.take(back.extra);
      for (; written < end; written++) output[written] = output[written - distance];
    }
  }
}
