// The members of a zip archive, read in the browser: the directory at the end first, each member when it is needed.
//
//     member 1 | member 2 | … | directory | ZIP64 end | ZIP64 locator (20 bytes) | end (22 bytes and a comment)

import { t } from "./words.js";

/** Some 300 000 members. */
const DIRECTORY_BYTES_MAX = 32 << 20;
/** A browser holds an inflated member in memory. */
const MEMBER_BYTES_MAX = 2 ** 31;
const END_BYTES = 22;
const COMMENT_BYTES_MAX = 65535;
const LOCATOR_BYTES = 20;
const ALL_ONES = 0xffffffff;

const viewOf = async (blob, from, to) => new DataView(await blob.slice(from, to).arrayBuffer());

/**
 * The members: {name, size, open} or {name, size, reason} for one that cannot be read. `open()` gives its bytes as a Blob, checked.
 * Throws an Error for a file that is no archive.
 */
export async function* membersOf(file) {
  const { offset, length, shift } = await placeOfDirectory(file);
  if (length > DIRECTORY_BYTES_MAX) throw new Error(t("zip.large"));
  const view = await viewOf(file, offset, offset + length);
  for (let at = 0; at < view.byteLength; ) {
    const kind = at + 46 <= view.byteLength ? view.getUint32(at, true) : 0;
    if (kind === 0x05054b50) break; // a signature of the directory
    if (kind !== 0x02014b50) throw new Error(t("zip.damaged"));
    const member = entryOf(view, at);
    at += member.length;
    member.offset += shift;
    if (member.name.endsWith("/")) continue;
    const reason = reasonAgainst(member);
    yield reason ? { name: member.name, size: member.size, reason } : { name: member.name, size: member.size, open: () => contentOf(file, member) };
  }
}

async function placeOfDirectory(file) {
  const from = Math.max(0, file.size - END_BYTES - COMMENT_BYTES_MAX - LOCATOR_BYTES);
  const view = await viewOf(file, from, file.size);
  for (let at = view.byteLength - END_BYTES; at >= 0; at -= 1) {
    if (view.getUint32(at, true) !== 0x06054b50) continue;
    const [length, offset] = [view.getUint32(at + 12, true), view.getUint32(at + 16, true)];
    if (at < LOCATOR_BYTES || view.getUint32(at - LOCATOR_BYTES, true) !== 0x07064b50) {
      // Something may stand before the archive, as in one that unpacks itself: all offsets are that much too low.
      const start = from + at - length;
      return { length, offset: start, shift: start - offset };
    }
    const place = Number(view.getBigUint64(at - LOCATOR_BYTES + 8, true));
    const end = await viewOf(file, place, place + 56);
    if (end.byteLength < 56 || end.getUint32(0, true) !== 0x06064b50) break;
    return { length: Number(end.getBigUint64(40, true)), offset: Number(end.getBigUint64(48, true)), shift: 0 };
  }
  throw new Error(t("zip.damaged"));
}

function entryOf(view, at) {
  const number = (place, bytes = 4) => (bytes === 2 ? view.getUint16(at + place, true) : view.getUint32(at + place, true));
  const [nameBytes, extraBytes, commentBytes] = [number(28, 2), number(30, 2), number(32, 2)];
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + at + 46, Math.min(nameBytes, view.byteLength - at - 46)));
  const member = {
    name, flags: number(8, 2), method: number(10, 2), crc: number(16), packed: number(20), size: number(24), offset: number(42),
    length: 46 + nameBytes + extraBytes + commentBytes,
  };
  // ZIP64: the fields that do not fit follow in the extra field 1, in this order.
  const end = Math.min(at + 46 + nameBytes + extraBytes, view.byteLength);
  for (let place = at + 46 + nameBytes; place + 4 <= end; place += 4 + view.getUint16(place + 2, true)) {
    if (view.getUint16(place, true) !== 1) continue;
    let value = place + 4;
    for (const field of ["size", "packed", "offset"]) {
      if (member[field] !== ALL_ONES || value + 8 > end) continue;
      member[field] = Number(view.getBigUint64(value, true));
      value += 8;
    }
  }
  return member;
}

function reasonAgainst({ flags, method, size }) {
  if (flags & 1) return t("zip.encrypted");
  if (method !== 0 && method !== 8) return t("zip.method", { method });
  return size > MEMBER_BYTES_MAX ? t("zip.member") : "";
}

/** Stored members stay in the file and are only checked; deflated ones are inflated, never further than their size. */
async function contentOf(file, { method, crc, packed, size, offset }) {
  const head = await viewOf(file, offset, offset + 30);
  if (head.byteLength < 30 || head.getUint32(0, true) !== 0x04034b50) throw new Error(t("zip.damaged"));
  const from = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const blob = file.slice(from, from + packed);
  const stream = method === 0 ? blob.stream() : blob.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const parts = [];
  let [length, sum] = [0, ALL_ONES];
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) break;
    length += value.length;
    if (length > size) break;
    sum = crcOf(value, sum);
    if (method !== 0) parts.push(value);
  }
  if (length !== size || (sum ^ ALL_ONES) >>> 0 !== crc) {
    reader.cancel().catch(() => {});
    throw new Error(t("zip.damaged"));
  }
  return method === 0 ? blob : new Blob(parts);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crcOf(bytes, sum) {
  for (let at = 0; at < bytes.length; at += 1) sum = CRC_TABLE[(sum ^ bytes[at]) & 255] ^ (sum >>> 8);
  return sum;
}
