// A text as a QR code (ISO/IEC 18004): byte mode, level L, versions 1 to 9, as an SVG.
//
//     text → bytes with a head, padded → blocks with Reed-Solomon codewords, interleaved
//          → modules in two-column strips from the lower right, around finders, timing and alignment → mask 0

import { html } from "./preact.mjs";

/** By version: codewords in all, codewords for correction in each block, blocks, centres of the alignment patterns. */
const VERSIONS = [
  [26, 7, 1, []], [44, 10, 1, [6, 18]], [70, 15, 1, [6, 22]], [100, 20, 1, [6, 26]], [134, 26, 1, [6, 30]],
  [172, 18, 2, [6, 34]], [196, 20, 2, [6, 22, 38]], [242, 24, 2, [6, 24, 42]], [292, 30, 2, [6, 26, 46]],
];
/** Mode and length of the text. */
const HEAD_BYTES = 2;

const [EXP, LOG] = [new Uint8Array(510), new Uint8Array(256)];
for (let at = 0, value = 1; at < 255; at += 1) {
  EXP[at] = EXP[at + 255] = value;
  LOG[value] = at;
  value = (value << 1) ^ (value & 0x80 ? 0x11d : 0);
}
const times = (a, b) => (a && b ? EXP[LOG[a] + LOG[b]] : 0);

/** Codewords for the correction of a block. */
function correction(data, count) {
  let generator = [1];
  for (let at = 0; at < count; at += 1) {
    const next = [...generator, 0];
    generator.forEach((value, place) => { next[place + 1] ^= times(value, EXP[at]); });
    generator = next;
  }
  const rest = [...data, ...new Array(count).fill(0)];
  for (let at = 0; at < data.length; at += 1) {
    const lead = rest[at];
    generator.forEach((value, place) => { rest[at + place] ^= times(value, lead); });
  }
  return rest.slice(data.length);
}

/** Data and correction of all blocks, in the order in which they are drawn. */
function codewords(bytes, [total, each, blocks]) {
  const size = total - each * blocks;
  const head = [0x40 | (bytes.length >> 4), ((bytes.length & 15) << 4) | (bytes[0] ?? 0) >> 4];
  const body = Array.from(bytes, (value, at) => ((value & 15) << 4) | ((bytes[at + 1] ?? 0) >> 4));
  const data = [...head, ...body];
  for (let at = data.length; at < size; at += 1) data.push((at - body.length) % 2 ? 0x11 : 0xec);
  const parts = Array.from({ length: blocks }, (_, at) => data.slice((at * size) / blocks, ((at + 1) * size) / blocks));
  const across = (lists) => lists[0].flatMap((_, at) => lists.map((list) => list[at]));
  return [...across(parts), ...across(parts.map((part) => correction(part, each)))];
}

/** The remainder of `value` by a polynomial, behind the value. */
function withRemainder(value, polynomial, bits) {
  let rest = value << bits;
  for (let at = 31 - Math.clz32(rest); at >= bits; at -= 1) if (rest >> at & 1) rest ^= polynomial << (at - bits);
  return (value << bits) | rest;
}

/** Rows of 0 and 1; null: the text is too long. */
export function modulesOf(text) {
  const bytes = new TextEncoder().encode(text);
  const version = VERSIONS.findIndex(([total, each, blocks]) => bytes.length + HEAD_BYTES <= total - each * blocks) + 1;
  if (!version) return null;
  const size = 17 + 4 * version;
  const [, , , centres] = VERSIONS[version - 1];
  const rows = Array.from({ length: size }, () => new Array(size).fill(null));
  const put = (y, x, isDark) => { if (y >= 0 && x >= 0 && y < size && x < size) rows[y][x] = Number(isDark); };
  const ring = (y, x, radius, isDark) => {
    for (let dy = -radius; dy <= radius; dy += 1) for (let dx = -radius; dx <= radius; dx += 1) put(y + dy, x + dx, isDark(Math.max(Math.abs(dy), Math.abs(dx))));
  };
  for (let at = 0; at < size; at += 1) [rows[6][at], rows[at][6]] = [1 - (at % 2), 1 - (at % 2)];
  for (const [y, x] of [[3, 3], [3, size - 4], [size - 4, 3]]) ring(y, x, 4, (distance) => distance !== 2 && distance !== 4);
  const last = centres.at(-1);
  for (const y of centres) for (const x of centres) if (!((y === 6 && (x === 6 || x === last)) || (y === last && x === 6))) ring(y, x, 2, (distance) => distance !== 1);
  const format = withRemainder(0b01000, 0x537, 10) ^ 0x5412; // level L, mask 0
  for (let at = 0; at < 15; at += 1) {
    const isDark = format >> at & 1;
    put(at < 6 ? at : at < 8 ? at + 1 : size - 15 + at, 8, isDark);
    put(8, at < 8 ? size - 1 - at : at < 9 ? 7 : 14 - at, isDark);
  }
  put(size - 8, 8, 1);
  if (version >= 7) {
    const bits = withRemainder(version, 0x1f25, 12);
    for (let at = 0; at < 18; at += 1) {
      const [long, short] = [Math.floor(at / 3), size - 11 + (at % 3)];
      put(long, short, bits >> at & 1);
      put(short, long, bits >> at & 1);
    }
  }
  const words = codewords(bytes, VERSIONS[version - 1]);
  let bit = 0;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5;
    for (let step = 0; step < size; step += 1) {
      const y = (right + 1) & 2 ? step : size - 1 - step;
      for (const x of [right, right - 1]) {
        if (rows[y][x] !== null) continue;
        const value = (words[bit >> 3] ?? 0) >> (7 - (bit & 7)) & 1;
        rows[y][x] = value ^ Number((y + x) % 2 === 0);
        bit += 1;
      }
    }
  }
  return rows;
}

/** The code with the quiet zone that readers need; nothing if the text is too long. */
export function QrCode({ text, label }) {
  const rows = modulesOf(text);
  if (!rows) return null;
  const size = rows.length + 8;
  const path = rows.flatMap((row, y) => row.map((isDark, x) => (isDark ? `M${x + 4} ${y + 4}h1v1h-1z` : ""))).join("");
  return html`<svg class="qr" role="img" aria-label=${label} viewBox=${`0 0 ${size} ${size}`} width="200" height="200"><rect width=${size} height=${size} fill="#fff" /><path d=${path} fill="#000" /></svg>`;
}
