/* CRC-32C (Castagnoli) as inline C, so that any extension may checksum bytes without holding the GIL.
 *
 * What it is for: record, segment and hint checksums (engine/storage), and the running checksum of a payload
 * while it is being received. It is no defence against tampering.
 *
 *     crc32c_update(crc, bytes, count)   as zlib's crc32(): starts from 0, and the result of one piece is the
 *                                        argument of the next; inversion before and after happens inside
 *
 * Hardware path (SSE4.2): the crc32 instruction has a latency of 3 cycles and a throughput of 1, so three
 * independent streams keep it busy. Bytes are taken in blocks of three lanes that lie end to end:
 *
 *     | lane 0: N bytes | lane 1: N bytes | lane 2: N bytes |      N = 4096, then 256, then single words
 *
 *     crc = shift(shift(crc0) ^ crc1) ^ crc2,  shift(c) = c followed by N zero bytes = c * x^(8N) mod P
 *
 * shift is linear over GF(2): four table look-ups, one a byte of c. Software path: slicing by 8.
 *
 * Folding path (AVX-512 and VPCLMULQDQ), twice as fast, for all whole blocks of 256 bytes; the rest goes the hardware
 * path. Four registers keep a remainder of what has been read; 16 bytes of it, H * x^64 + L, move on by D bits as
 *
 *     H * (x^(D+64) mod P) ^ L * (x^D mod P) ^ the 16 bytes there      D = 2048; at the end 512, 384, 256, 128
 *
 * The product of two reflected words has one factor x more than it should, so the constants have one less.
 * All tables are filled when the shared object is loaded, before any thread can call in here.
 *
 * Bits are reflected: bit 31 of a word is the coefficient of x^0. P = 0x1EDC6F41, reflected 0x82F63B78
 * (RFC 3720 appendix B.4 has the test vectors).
 */
#ifndef FILMROOM_CRC32C_IMPL_H
#define FILMROOM_CRC32C_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define CRC32C_HARDWARE 1
#include <immintrin.h>
#else
#define CRC32C_HARDWARE 0
#endif

#define CRC32C_POLYNOMIAL 0x82F63B78u
#define CRC32C_LONG_LANE 4096
#define CRC32C_SHORT_LANE 256

static uint32_t crc32c_slices[8][256];
static uint32_t crc32c_long_shift[4][256];
static uint32_t crc32c_short_shift[4][256];
static uint64_t crc32c_fold[5][2]; /* D = 2048, 512, 384, 256, 128: for H and for L */
static int crc32c_has_hardware;
static int crc32c_has_folding;

/* a * b mod P. */
static uint32_t crc32c_multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b >> 1) ^ ((b & 1) ? CRC32C_POLYNOMIAL : 0);
    }
    return product;
}

/* x^(8 * byte_count) mod P. */
static uint32_t crc32c_zeros(size_t byte_count) {
    uint32_t power = 0x00800000u; /* x^8 */
    uint32_t result = 0x80000000u; /* 1 */
    for (; byte_count; byte_count >>= 1) {
        if (byte_count & 1) result = crc32c_multiply(result, power);
        power = crc32c_multiply(power, power);
    }
    return result;
}

static void crc32c_fill_shift(uint32_t table[4][256], size_t lane_bytes) {
    uint32_t factor = crc32c_zeros(lane_bytes);
    for (int k = 0; k < 4; k++) {
        for (uint32_t b = 0; b < 256; b++) table[k][b] = crc32c_multiply(b << (8 * k), factor);
    }
}

/* x^count mod P as a reflected word of 64 bits. */
static uint64_t crc32c_power(size_t count) {
    return (uint64_t)crc32c_multiply(crc32c_zeros(count / 8), 0x80000000u >> count % 8) << 32;
}

__attribute__((constructor)) static void crc32c_fill_tables(void) {
    static const size_t distances[5] = {2048, 512, 384, 256, 128};
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = b;
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ ((c & 1) ? CRC32C_POLYNOMIAL : 0);
        crc32c_slices[0][b] = c;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int k = 1; k < 8; k++) {
            uint32_t c = crc32c_slices[k - 1][b];
            crc32c_slices[k][b] = (c >> 8) ^ crc32c_slices[0][c & 0xFF];
        }
    }
    crc32c_fill_shift(crc32c_long_shift, CRC32C_LONG_LANE);
    crc32c_fill_shift(crc32c_short_shift, CRC32C_SHORT_LANE);
    for (int k = 0; k < 5; k++) {
        crc32c_fold[k][0] = crc32c_power(distances[k] + 64 - 1);
        crc32c_fold[k][1] = crc32c_power(distances[k] - 1);
    }
#if CRC32C_HARDWARE
    __builtin_cpu_init();
    crc32c_has_hardware = __builtin_cpu_supports("sse4.2") != 0;
    crc32c_has_folding = crc32c_has_hardware && __builtin_cpu_supports("avx512f") != 0 &&
                         __builtin_cpu_supports("vpclmulqdq") != 0 && __builtin_cpu_supports("pclmul") != 0;
#endif
}

static inline uint64_t crc32c_load(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/* Slicing by 8: the fallback, and the second opinion in the tests. */
static uint32_t crc32c_software(uint32_t crc, const uint8_t *bytes, size_t count) {
    uint32_t c = ~crc;
    for (; count >= 8; bytes += 8, count -= 8) {
        uint64_t word = crc32c_load(bytes) ^ c;
        c = 0;
        for (int k = 0; k < 8; k++) c ^= crc32c_slices[7 - k][(word >> (8 * k)) & 0xFF];
    }
    for (; count; bytes++, count--) c = (c >> 8) ^ crc32c_slices[0][(c ^ *bytes) & 0xFF];
    return ~c;
}

#if CRC32C_HARDWARE
static inline uint32_t crc32c_shift(const uint32_t table[4][256], uint32_t c) {
    return table[0][c & 0xFF] ^ table[1][(c >> 8) & 0xFF] ^ table[2][(c >> 16) & 0xFF] ^ table[3][c >> 24];
}

#define CRC32C_LANES(LANE, TABLE)                                                       \
    for (; count >= 3 * (LANE); bytes += 3 * (LANE), count -= 3 * (LANE)) {             \
        uint64_t c1 = 0, c2 = 0;                                                        \
        for (size_t at = 0; at < (LANE); at += 8) {                                     \
            c = _mm_crc32_u64(c, crc32c_load(bytes + at));                              \
            c1 = _mm_crc32_u64(c1, crc32c_load(bytes + (LANE) + at));                   \
            c2 = _mm_crc32_u64(c2, crc32c_load(bytes + 2 * (LANE) + at));               \
        }                                                                               \
        c = crc32c_shift(TABLE, (uint32_t)c) ^ (uint32_t)c1;                            \
        c = crc32c_shift(TABLE, (uint32_t)c) ^ (uint32_t)c2;                            \
    }

__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t crc, const uint8_t *bytes, size_t count) {
    uint64_t c = (uint32_t)~crc;
    CRC32C_LANES(CRC32C_LONG_LANE, crc32c_long_shift)
    CRC32C_LANES(CRC32C_SHORT_LANE, crc32c_short_shift)
    for (; count >= 8; bytes += 8, count -= 8) c = _mm_crc32_u64(c, crc32c_load(bytes));
    uint32_t c32 = (uint32_t)c;
    for (; count; bytes++, count--) c32 = _mm_crc32_u8(c32, *bytes);
    return ~c32;
}
#undef CRC32C_LANES

#define CRC32C_FOLD_BLOCK 256
#define CRC32C_FOLD_TARGET __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))

CRC32C_FOLD_TARGET static inline __m512i crc32c_folded(__m512i x, __m512i k, __m512i next) {
    __m512i high = _mm512_clmulepi64_epi128(x, k, 0x00), low = _mm512_clmulepi64_epi128(x, k, 0x11);
    return _mm512_xor_si512(_mm512_xor_si512(high, low), next);
}

CRC32C_FOLD_TARGET static inline __m128i crc32c_folded_short(__m128i x, int distance, __m128i next) {
    __m128i k = _mm_loadu_si128((const __m128i *)crc32c_fold[distance]);
    __m128i high = _mm_clmulepi64_si128(x, k, 0x00), low = _mm_clmulepi64_si128(x, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(high, low), next);
}

/* At least one block. */
CRC32C_FOLD_TARGET static uint32_t crc32c_folding(uint32_t crc, const uint8_t *bytes, size_t count) {
    __m512i x[4], k;
    for (int n = 0; n < 4; n++) x[n] = _mm512_loadu_si512(bytes + 64 * n);
    x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~crc)));
    bytes += CRC32C_FOLD_BLOCK, count -= CRC32C_FOLD_BLOCK;
    k = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)crc32c_fold[0]));
    for (; count >= CRC32C_FOLD_BLOCK; bytes += CRC32C_FOLD_BLOCK, count -= CRC32C_FOLD_BLOCK) {
        x[0] = crc32c_folded(x[0], k, _mm512_loadu_si512(bytes));
        x[1] = crc32c_folded(x[1], k, _mm512_loadu_si512(bytes + 64));
        x[2] = crc32c_folded(x[2], k, _mm512_loadu_si512(bytes + 128));
        x[3] = crc32c_folded(x[3], k, _mm512_loadu_si512(bytes + 192));
    }
    k = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)crc32c_fold[1]));
    for (int n = 1; n < 4; n++) x[0] = crc32c_folded(x[0], k, x[n]);
    __m128i last = _mm512_extracti32x4_epi32(x[0], 3);
    last = crc32c_folded_short(_mm512_extracti32x4_epi32(x[0], 0), 2, last);
    last = crc32c_folded_short(_mm512_extracti32x4_epi32(x[0], 1), 3, last);
    last = crc32c_folded_short(_mm512_extracti32x4_epi32(x[0], 2), 4, last);
    uint64_t words[2];
    _mm_storeu_si128((__m128i *)words, last);
    crc = ~(uint32_t)_mm_crc32_u64(_mm_crc32_u64(0, words[0]), words[1]);
    return crc32c_hardware(crc, bytes, count);
}
#endif

/* The hardware path, where there is one: what processors without the folding path do. */
static inline uint32_t crc32c_lanes(uint32_t crc, const uint8_t *bytes, size_t count) {
#if CRC32C_HARDWARE
    if (crc32c_has_hardware) return crc32c_hardware(crc, bytes, count);
#endif
    return crc32c_software(crc, bytes, count);
}

static inline uint32_t crc32c_update(uint32_t crc, const uint8_t *bytes, size_t count) {
#if CRC32C_HARDWARE
    if (crc32c_has_folding && count >= 2 * CRC32C_FOLD_BLOCK) return crc32c_folding(crc, bytes, count);
#endif
    return crc32c_lanes(crc, bytes, count);
}

#endif
