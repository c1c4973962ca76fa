/* The vector type that the other files compute in, exp, sums over a vector, and conversion to and from bf16. */

#ifndef REGARD_VECTORS
#define REGARD_VECTORS

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined __AVX2__ || defined __AVX512F__
#include <immintrin.h>
#endif

#define ALWAYS static inline __attribute__((always_inline))

/* LANES is how many fp32 numbers one register holds. GCC keeps wider vectors in memory: products with 16 lanes on AVX2
   took seven times as long. */
#ifdef __AVX512F__
enum { LANES = 16 };
#elif defined __AVX2__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float four_lanes __attribute__((vector_size(16)));

/* The sum of the numbers in a register, by halving: the order of the additions is the same for every caller. */
ALWAYS float sum_of(lanes x)
{
    four_lanes parts[LANES / 4];
    memcpy(parts, &x, sizeof x);
    for (int count = LANES / 8; count; count /= 2)
        for (int n = 0; n < count; n++)
            parts[n] += parts[n + count];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

/* 1.5 * 2^23. x + ROUNDED has round(x) in its last bits, for |x| < 2^22. For NaN and infinity these bits mean nothing,
   but reading them is defined, while C leaves the conversion of NaN to an integer undefined. */
#define ROUNDED 12582912.0f

ALWAYS uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* exp(x) for x <= 88, within 2 units of the last place: exp(x) = 2^n * e^r with r = x - n ln 2, and e^r by its series.
   Below -87 the result is exp(-87); for NaN and infinity it is NaN. */
ALWAYS float exp_of(float x)
{
    x = x < -87.0f ? -87.0f : x; /* false for NaN, which is kept */
    float rounded = x * 1.44269504f + ROUNDED, n = rounded - ROUNDED;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts: n times the first is exact */
    float series = 1.98756915e-4f;
    series = series * r + 1.39819995e-3f;
    series = series * r + 8.33345190e-3f;
    series = series * r + 4.16657960e-2f;
    series = series * r + 1.66666655e-1f;
    series = series * r + 5.00000000e-1f;
    series = series * r * r + r + 1.0f;
    uint32_t bits = (bits_of(rounded) + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* x rounded to the nearest bf16 number, ties to even. A bf16 number is the upper 16 bits of an fp32 number. */
ALWAYS uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Number i of x, an array of bf16 numbers if ``bf16``, else of fp32 numbers */
ALWAYS float number_at(const void *x, long i, int bf16)
{
    uint32_t bits = bf16 ? (uint32_t)((const uint16_t *)x)[i] << 16 : ((const uint32_t *)x)[i];
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* Numbers i ... i + LANES - 1 of x, an array of bf16 numbers if ``bf16``, else of fp32 numbers */
ALWAYS lanes load(const void *x, long i, int bf16)
{
    lanes found;
    if (bf16) {
        uint32_t bits[LANES];
        for (int n = 0; n < LANES; n++)
            bits[n] = (uint32_t)((const uint16_t *)x)[i + n] << 16;
        memcpy(&found, bits, sizeof found);
    } else
        memcpy(&found, (const float *)x + i, sizeof found);
    return found;
}

/* Writes a register to numbers i ... i + LANES - 1 of x, rounded to bf16 if ``bf16``. */
ALWAYS void store(lanes value, void *x, long i, int bf16)
{
    if (bf16) {
        uint32_t bits[LANES];
        memcpy(bits, &value, sizeof value);
        for (int n = 0; n < LANES; n++)
            ((uint16_t *)x)[i + n] = (uint16_t)((bits[n] + 0x7fff + (bits[n] >> 16 & 1)) >> 16); /* as to_bf16 */
    } else
        memcpy((float *)x + i, &value, sizeof value);
}

/* Transposes a square of LANES x LANES numbers; rows of x are ``stride`` numbers apart, those of ``to``
   ``to_stride``. */
ALWAYS void transpose_square(const float *x, long stride, float *to, long to_stride)
{
#ifdef __AVX512F__
    __m512 rows[LANES];
    for (int r = 0; r < LANES; r++)
        rows[r] = _mm512_loadu_ps(x + r * stride);
    /* Of two rows ``apart`` rows from each other, one gives its upper and one its lower columns: after distances of
       8, 4, 2 and 1 rows the square is transposed. */
#define EXCHANGE(apart, ...) \
    do { \
        const __m512i low = _mm512_setr_epi32(__VA_ARGS__), high = _mm512_add_epi32(low, _mm512_set1_epi32(apart)); \
        _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) if (!(r & apart)) \
        { \
            __m512 one = rows[r], other = rows[r + apart]; \
            rows[r] = _mm512_permutex2var_ps(one, low, other); \
            rows[r + apart] = _mm512_permutex2var_ps(one, high, other); \
        } \
    } while (0)
    EXCHANGE(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    EXCHANGE(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    EXCHANGE(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    EXCHANGE(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
#undef EXCHANGE
    for (int r = 0; r < LANES; r++)
        _mm512_storeu_ps(to + r * to_stride, rows[r]);
#else
    for (int k = 0; k < LANES; k++)
        for (int r = 0; r < LANES; r++)
            to[k * to_stride + r] = x[r * stride + k];
#endif
}

#endif
